//! The admin HTTP: `/healthz`, `/readyz`, `/metrics`, and `/reload`, which changes what the configuration's files say
//! and nothing else. Few connections, each of bounded life.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::metrics;
use crate::readiness::Readiness;
use crate::reload::Requests;

/// Connections open at once; others wait in the listener's queue.
const CONNECTIONS_MAX: usize = 32;
/// A connection's whole life: a scraper connects again, and one that says nothing does not keep its place.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(30);

/// What the answers are made from.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) registry: Registry,
    pub(super) readiness: Arc<Readiness>,
    pub(super) reloads: Requests,
}

/// Answers at `listener` until dropped.
pub(super) async fn serve(listener: std::net::TcpListener, answers: Arc<Answers>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Bounded {
        listener: TcpListener::from_std(listener)?,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    axum::serve(listener, router(answers)).await
}

fn router(answers: Arc<Answers>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/reload", post(reload))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "not found: try /healthz, /readyz, /metrics, POST /reload\n")
        })
        .with_state(answers)
}

async fn readyz(State(answers): State<Arc<Answers>>) -> (StatusCode, String) {
    let reasons: String =
        answers.readiness.obstacles().map(|obstacle| format!("not ready: {}\n", obstacle.text())).collect();
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons)
    }
}

async fn metrics_text(State(answers): State<Arc<Answers>>) -> Response {
    match metrics::text(&answers.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response(),
    }
}

/// Answers when the new configuration is in force, or why it is not.
async fn reload(State(answers): State<Arc<Answers>>) -> (StatusCode, String) {
    let reloads = answers.reloads.clone();
    match tokio::task::spawn_blocking(move || reloads.ask_and_wait()).await {
        Ok(Ok(reloaded)) => {
            let text = serde_json::to_string(&reloaded).unwrap_or_default();
            (StatusCode::OK, text + "\n")
        }
        Ok(Err(error)) => (StatusCode::CONFLICT, format!("the old configuration stays in force: {error}\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// A listener that holds no more connections than it has places for.
#[derive(Debug)]
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection with its place and its end.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        // The listener of tokio waits where a descriptor is missing, and tries again.
        let (stream, client) = Listener::accept(&mut self.listener).await;
        (Connection { stream, ends: Box::pin(sleep(CONNECTION_LIFE_MAX)), _place: place }, client)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    /// An error once the connection has had its time; otherwise the task is woken then.
    fn poll_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ends.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_end(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_end(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
