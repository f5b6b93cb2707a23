//! Foreign programs beside ours, on the same files and namespaces.

mod host_local;
mod host_local_changed;
mod host_local_corpus;
mod host_local_index;
