//! The sink of loadgen on tokio-uring: the same session, one thread, its ring. `sink-tokio-uring ADDR:PORT`.

use bench::sink;
use loadgen::sink::session::Session;
use tokio_uring::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::io::Result<()> {
    tokio_uring::start(async {
        let listener = TcpListener::from_std(sink::bind()?);
        loop {
            let (stream, _) = listener.accept().await?;
            // A session that breaks is its client's affair.
            tokio_uring::spawn(async move { drop(serve(stream).await) });
        }
    })
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // Buffers move into the ring with each operation and come back with its end.
    let (mut input, mut out) = (Vec::with_capacity(sink::RECEIVE_LEN), Vec::new());
    let mut session = Session::new(&mut out);
    loop {
        if !out.is_empty() {
            let (written, returned) = stream.write_all(out).await;
            written?;
            out = returned;
            out.clear();
        }
        if session.is_closed() {
            return Ok(());
        }
        let (len, returned) = stream.read(input).await;
        input = returned;
        match len? {
            0 => return Ok(()),
            len => session.receive(true, &input[..len], &mut out),
        }
    }
}
