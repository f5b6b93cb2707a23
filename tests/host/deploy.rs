//! What is in `deploy/` and is executed: how plugins are installed, and how nodes start.

mod installing;
mod nodes;
