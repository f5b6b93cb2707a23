//! Devices that exist only as directories, for plugins that search for one in `/sys`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// A directory that stands for `/sys/bus` or a part of `/sys/devices`.
#[derive(Debug)]
pub struct FakeSys {
    directory: TempDir,
}

impl FakeSys {
    /// An empty directory.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { directory }
    }

    /// The directory to bind-mount.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A device at `path` whose interface is `netdev`, in the directory `net`.
    pub fn netdev(&self, path: &str, net: &str, netdev: &str) {
        let path = self.path().join(path).join(net).join(netdev);
        fs::create_dir_all(path).expect("the directory is writable");
    }

    /// Binds the device at `path` to `driver`.
    pub fn bind(&self, path: &str, driver: &str) {
        let device = self.path().join(path);
        let driver = self.path().join("pci/drivers").join(driver);
        fs::create_dir_all(&device).expect("the directory is writable");
        fs::create_dir_all(&driver).expect("the directory is writable");
        // The link is relative, so that it leads to the driver also where the tree is
        // mounted.
        let name = driver.file_name().expect("a driver has a name");
        let target = Path::new("../../drivers").join(name);
        std::os::unix::fs::symlink(target, device.join("driver")).expect("it has none yet");
    }

    /// Removes the driver of the device at `path`.
    pub fn unbind(&self, path: &str) {
        fs::remove_file(self.path().join(path).join("driver")).expect("it has a driver");
    }
}

impl Default for FakeSys {
    fn default() -> Self {
        Self::new()
    }
}
