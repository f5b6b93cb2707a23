//! Where the files of the repository are.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A file of every clone and of nothing else.
const MARK: &str = "tests/suite-path";

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let current = env::current_dir().expect("the current directory exists");
    let mut ancestors = current.ancestors();
    let root = ancestors.find(|directory| directory.join(MARK).is_file());
    root.unwrap_or_else(|| panic!("{current:?} is not in a clone: no {MARK} is above it"))
        .to_owned()
});

/// The clone that this program is executed in. It may be another one than it was built in, which is
/// why no path of that is compiled in: cargo gives two clones of one source that share a cache the
/// same program.
pub fn repository() -> &'static Path {
    &ROOT
}
