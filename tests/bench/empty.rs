//! Nothing: what starting and ending a static process costs at least.

fn main() {}
