//! A proxy between a node and AWS.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use harness::Namespace;

/// An HTTP proxy that opens tunnels to this node, whatever name it is asked for, and
/// remembers what it was asked.
pub(super) struct Proxy {
    pub(super) url: String,
    netns: String,
    lines: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(super) fn start(netns: &str) -> Self {
        let inside = Namespace::at(netns);
        let listener = inside.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let is_over = Arc::<AtomicBool>::default();
        let thread = thread::spawn({
            let (lines, is_over) = (Arc::clone(&lines), Arc::clone(&is_over));
            move || inside.run(|| serve(&listener, &lines, &is_over))
        });
        Self {
            url,
            netns: netns.to_owned(),
            lines,
            is_over,
            thread: Some(thread),
        }
    }

    /// The first lines of all requests.
    pub(super) fn asked(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let address = self.url.trim_start_matches("http://");
        Namespace::at(&self.netns).run(|| TcpStream::connect(address).ok());
        self.thread.take().map(JoinHandle::join);
    }
}

fn serve(listener: &TcpListener, lines: &Mutex<Vec<String>>, is_over: &AtomicBool) {
    thread::scope(|scope| {
        for stream in listener.incoming().map_while(Result::ok) {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            scope.spawn(move || tunnel(stream, lines));
        }
    });
}

fn tunnel(mut client: TcpStream, lines: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    lines.lock().unwrap().push(line.trim_end().to_owned());
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let mut server = TcpStream::connect("127.0.0.1:443").unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let mut back = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::scope(|scope| {
        scope.spawn(move || {
            std::io::copy(&mut back.0, &mut back.1).ok();
            back.1.shutdown(std::net::Shutdown::Both).ok();
        });
        std::io::copy(&mut reader, &mut server).ok();
        server.shutdown(std::net::Shutdown::Both).ok();
    });
}
