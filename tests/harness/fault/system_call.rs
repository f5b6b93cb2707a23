//! The system calls that plugins make: their names, whether one has an effect that other
//! processes can see, and the errors that they may return.

use std::fmt;

use nix::errno::Errno;
use nix::libc;

/// The errors that are injected.
pub const ERRORS: [Errno; 5] = [
    Errno::ENOSPC,
    Errno::EIO,
    Errno::EMFILE,
    Errno::EINTR,
    Errno::EBUSY,
];
/// The errors that last: no descriptor, no memory, no resource, no disk.
pub const LASTING: [Errno; 4] = [Errno::EMFILE, Errno::ENOMEM, Errno::EAGAIN, Errno::EIO];
/// The error of netlink when it has no memory for a message or for the answer to it.
pub const NO_MEMORY: Errno = Errno::ENOBUFS;

/// A system call that a process is about to make.
#[derive(Debug, Clone, Copy)]
pub struct SystemCall {
    /// Its number.
    pub number: u64,
    /// Its third argument.
    pub third: u64,
}

/// A number, a name, and which of these errors the system call may return.
type Row = (libc::c_long, &'static str, &'static [Errno]);

const OPEN: &[Errno] = &ERRORS;
const CREATE: &[Errno] = &[Errno::ENOSPC, Errno::EIO, Errno::EBUSY];
const REMOVE: &[Errno] = &[Errno::EIO, Errno::EBUSY];
const WRITE: &[Errno] = &[Errno::ENOSPC, Errno::EIO, Errno::EINTR];
const WAIT: &[Errno] = &[Errno::EINTR];
const MESSAGE: &[Errno] = &[Errno::EINTR, NO_MEMORY];
const DESCRIPTOR: &[Errno] = &[Errno::EMFILE];
const LOOK: &[Errno] = &[Errno::EIO];
const NONE: &[Errno] = &[];

/// The system calls with an effect that other processes can see, or that wait for other
/// processes. Newer architectures do not have the older calls without a directory descriptor,
/// such as `link`.
#[rustfmt::skip]
const CHANGING: &[Row] = &[
    (libc::SYS_clone, "clone", NONE),
    (libc::SYS_clone3, "clone3", NONE),
    (libc::SYS_connect, "connect", NONE),
    (libc::SYS_execve, "execve", &[Errno::EIO, Errno::EMFILE]),
    (libc::SYS_exit_group, "exit_group", NONE),
    (libc::SYS_fallocate, "fallocate", WRITE),
    (libc::SYS_fchmod, "fchmod", LOOK),
    (libc::SYS_ftruncate, "ftruncate", WRITE),
    (libc::SYS_kill, "kill", NONE),
    (libc::SYS_linkat, "linkat", CREATE),
    (libc::SYS_mkdirat, "mkdirat", CREATE),
    (libc::SYS_mount, "mount", &[Errno::EBUSY]),
    (libc::SYS_pwrite64, "pwrite64", WRITE),
    (libc::SYS_renameat, "renameat", CREATE),
    (libc::SYS_renameat2, "renameat2", CREATE),
    (libc::SYS_sendmsg, "sendmsg", WAIT),
    (libc::SYS_sendto, "sendto", MESSAGE),
    (libc::SYS_symlinkat, "symlinkat", CREATE),
    (libc::SYS_unlinkat, "unlinkat", REMOVE),
    (libc::SYS_wait4, "wait4", WAIT),
    (libc::SYS_waitid, "waitid", WAIT),
    (libc::SYS_write, "write", WRITE),
    (libc::SYS_writev, "writev", WRITE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait", WAIT),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", CREATE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", CREATE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll", WAIT),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", CREATE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", REMOVE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "symlink", CREATE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", REMOVE),
    #[cfg(target_arch = "aarch64")]
    (libc::SYS_epoll_pwait, "epoll_pwait", WAIT),
    #[cfg(target_arch = "aarch64")]
    (libc::SYS_ppoll, "ppoll", WAIT),
];

/// The system calls that only read, or affect only the process itself.
#[rustfmt::skip]
const LOOKING: &[Row] = &[
    (libc::SYS_close, "close", NONE),
    (libc::SYS_dup, "dup", DESCRIPTOR),
    (libc::SYS_epoll_create1, "epoll_create1", DESCRIPTOR),
    (libc::SYS_eventfd2, "eventfd2", DESCRIPTOR),
    (libc::SYS_fcntl, "fcntl", NONE),
    (libc::SYS_fdatasync, "fdatasync", WRITE),
    (libc::SYS_flock, "flock", WAIT),
    (libc::SYS_fstat, "fstat", LOOK),
    (libc::SYS_fsync, "fsync", WRITE),
    (libc::SYS_getdents64, "getdents64", LOOK),
    (libc::SYS_newfstatat, "newfstatat", LOOK),
    (libc::SYS_openat, "openat", OPEN),
    (libc::SYS_pipe2, "pipe2", DESCRIPTOR),
    (libc::SYS_read, "read", &[Errno::EIO, Errno::EINTR]),
    (libc::SYS_recvfrom, "recvfrom", MESSAGE),
    (libc::SYS_setns, "setns", NONE),
    (libc::SYS_socket, "socket", DESCRIPTOR),
    (libc::SYS_statx, "statx", LOOK),
    (libc::SYS_unshare, "unshare", &[Errno::ENOSPC]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, "readlink", LOOK),
    #[cfg(target_arch = "aarch64")]
    (libc::SYS_readlinkat, "readlinkat", LOOK),
];

/// The system calls that lack nothing: the end of a process or of a signal, what a process sets for
/// itself, and waiting in its own memory. `brk` has no error, and glibc ends a process that gets
/// one from `futex` or `rseq`.
const LACKING_NOTHING: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
];
/// The system calls by which a process waits for a lock: for them `EAGAIN` is that another one has
/// it.
const LOCKING: &[libc::c_long] = &[libc::SYS_fcntl, libc::SYS_flock];

impl SystemCall {
    /// Whether a fault that lasts is tried with this call and this error.
    pub fn may_lack(self, error: Errno) -> bool {
        let is_one_of =
            |list: &[libc::c_long]| list.iter().any(|n| u64::try_from(*n) == Ok(self.number));
        let waits = error == Errno::EAGAIN && is_one_of(LOCKING);
        !waits && !is_one_of(LACKING_NOTHING)
    }

    /// Whether it reads from a file.
    pub fn is_read(self) -> bool {
        u64::try_from(libc::SYS_read) == Ok(self.number)
    }

    /// Whether a process that is killed before this call may leave another state than one
    /// that is killed before its next call.
    pub fn is_changing(self) -> bool {
        let is_listed = CHANGING.iter().any(|row| self.is(row));
        is_listed || self.may_create()
    }

    /// Whether it writes to a file.
    pub fn is_write(self) -> bool {
        self.row().is_some_and(|row| row.1 == "write")
    }

    /// Whether it may return this error.
    pub fn may_return(self, error: Errno) -> bool {
        self.row().is_some_and(|row| row.2.contains(&error))
    }

    fn may_create(self) -> bool {
        let flags = u64::try_from(libc::O_CREAT | libc::O_TRUNC).unwrap_or_default();
        self.row().is_some_and(|row| row.1 == "openat") && self.third & flags != 0
    }

    fn row(self) -> Option<&'static Row> {
        let mut rows = CHANGING.iter().chain(LOOKING);
        rows.find(|row| self.is(row))
    }

    fn is(self, row: &Row) -> bool {
        u64::try_from(row.0) == Ok(self.number)
    }
}

impl fmt::Display for SystemCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.write_str(row.1),
            None => write!(f, "system call {}", self.number),
        }
    }
}
