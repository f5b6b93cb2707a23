//! Has the linker put a build id into the program, by which it knows a copy of itself. The
//! linkers of some machines would put another one, or none.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,--build-id=sha1");
}
