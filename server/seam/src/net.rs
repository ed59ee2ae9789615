//! Sockets: listen, accept, connect, and a byte stream that tokio can read and write.
//!
//! What it promises: an address is resolved at each connect, so a peer may move; every stream is without Nagle's
//! delay. What is absent: TLS, deadlines (the caller's), framing, and what one server library wants of a stream.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a stream can do.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection's bytes, both ways.
pub type Stream = Box<dyn Io>;

/// Where the server gets connections. Addresses are `host:port`.
pub trait Net: Send + Sync + Debug {
    /// Listens on an address; port 0 lets the system choose, [`Listener::local_addr`] tells.
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
    /// Connects, resolving the name now. Has no deadline of its own.
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Stream>>;
}

/// A listening socket; closes when dropped.
pub trait Listener: Send + Debug {
    /// The bound address, `host:port` with the real port.
    fn local_addr(&self) -> String;
    /// The next connection and its peer's address. Cancel safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>>;
}

/// The machine's TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNet;

impl Net for SystemNet {
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let socket = tokio::net::TcpListener::bind(addr).await?;
            let addr = socket.local_addr()?.to_string();
            Ok(Box::new(SystemListener { socket, addr }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Stream)
        })
    }
}

#[derive(Debug)]
struct SystemListener {
    socket: tokio::net::TcpListener,
    addr: String,
}

impl Listener for SystemListener {
    fn local_addr(&self) -> String {
        self.addr.clone()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            let (stream, peer) = self.socket.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Stream, peer.to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn system_net_carries_bytes_and_refuses_a_closed_port() {
        let mut listener = SystemNet.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let (client, accepted) = tokio::join!(SystemNet.connect(&addr), listener.accept());
        let (mut client, (mut server, peer)) = (client.unwrap(), accepted.unwrap());
        assert!(peer.starts_with("127.0.0.1:"));
        client.write_all(b"ping").await.unwrap();
        let mut buf = [0; 4];
        server.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"ping");
        drop(listener);
        assert_eq!(SystemNet.connect(&addr).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    }
}
