//! `resolv.conf` as the Go plugin reads it: four keywords, every other line ignored.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use common::cni::result::Dns;
use common::error::{Error, Result};
use nix::libc;

/// The maximum size in bytes, far more than a resolver configuration needs.
const SIZE_LIMIT: u64 = 1 << 20;

/// The name servers, domain, search list and options in the file at `path`, which may be
/// a symbolic link, as in many distributions.
///
/// # Errors
/// Code 5 naming the file.
pub fn read(path: &Path) -> Result<Dns> {
    let failed = |cause| Error::io(format!("failed to read resolvConf {path:?}"), &cause);
    let mut content = Vec::new();
    // Without O_NONBLOCK, opening a FIFO would block.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| file.take(SIZE_LIMIT + 1).read_to_end(&mut content))
        .map_err(failed)?;
    if content.len() as u64 > SIZE_LIMIT {
        return Err(failed(io::Error::other("the file is too large")));
    }
    Ok(parse(&String::from_utf8_lossy(&content)))
}

/// Comments are ignored without a special case: their first word, with `#` or `;`, is not
/// a keyword.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace().map(str::to_owned);
        let (Some(keyword), Some(first)) = (fields.next(), fields.next()) else {
            continue;
        };
        match keyword.as_str() {
            "nameserver" => dns.nameservers.push(first),
            "domain" => dns.domain = first,
            "search" => dns.search.extend(std::iter::once(first).chain(fields)),
            "options" => dns.options.extend(std::iter::once(first).chain(fields)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_add_up_and_the_last_domain_wins() {
        let dns = parse(
            "# comment\n; comment\n  #indented\n#search x\n;search y\n# search z\nnameserver 192.0.2.1 ignored\r\n\
             nameserver\t192.0.2.2\ndomain a.example\ndomain b.example c.example\n\
             search one.example two.example\nsearch three.example\n\
             options ndots:2 rotate\noptions timeout:1\nsortlist 10.0.0.0\n\
             nameserver\nNAMESERVER 192.0.2.3\n\nsearch # x\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(dns.domain, "b.example");
        assert_eq!(
            dns.search,
            ["one.example", "two.example", "three.example", "#", "x"]
        );
        assert_eq!(dns.options, ["ndots:2", "rotate", "timeout:1"]);
    }

    #[test]
    fn an_empty_file_gives_empty_settings() {
        assert!(parse("").is_empty());
    }
}
