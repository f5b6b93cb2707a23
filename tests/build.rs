//! Says what `cargo test` leaves out, as a test that cannot run here must not pass for one that has.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_ROOT").is_none() {
        println!(
            "cargo::warning=without --features root there are no tests of the programs: as root, \
             `make test-host test-vm test-reboot` runs these"
        );
    }
}
