//! The sink of loadgen on tokio: the same session, one thread, epoll. `sink-tokio ADDR:PORT`.

use bench::sink;
use loadgen::sink::session::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::from_std(sink::bind()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A session that breaks is its client's affair.
        tokio::spawn(async move { drop(serve(stream).await) });
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut out) = (vec![0; sink::RECEIVE_LEN], Vec::new());
    let mut session = Session::new(&mut out);
    loop {
        stream.write_all(&out).await?;
        out.clear();
        if session.is_closed() {
            return Ok(());
        }
        let len = stream.read(&mut input).await?;
        if len == 0 {
            return Ok(());
        }
        session.receive(true, &input[..len], &mut out);
    }
}
