//! The admin HTTP: `/healthz`, `/readyz`, `/metrics`, `/listeners`, `/visitors`. Few connections, each of bounded life.
//! It knows nobody, so it changes nothing: what does is asked for at the control socket, which has an owner.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::serve::Listener;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Sleep, sleep};

use super::control::{Command, Verb};
use super::metrics;
use crate::config::parse_bind;
use crate::egress;
use crate::limits::{ADMIN_CONNECTION_TIME_MAX, ADMIN_CONNECTIONS_COUNT_MAX, ORDER_LEN_MAX};
use crate::readiness::Readiness;
use crate::reload::Requests;
use crate::server::{Board, Proof, Standing, Ticket, Visit, Visitors};

/// Of requests by our own commands.
const OWN_HEADER: &str = "x-ringmx";

/// What the answers are made from.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) registry: Registry,
    pub(super) readiness: Arc<Readiness>,
    pub(super) reloads: Requests,
    pub(super) board: Arc<Board>,
    pub(super) visitors: Arc<Visitors>,
}

/// Answers at the control socket, and passes on what is to be done, until dropped.
pub(super) async fn serve_control(
    listener: UnixListener,
    answers: Arc<Answers>,
    commands: Sender<Command>,
    egress: egress::Router,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let changes = Router::new()
        .route("/listeners/{name}/{address}", post(add_address))
        .route("/listeners/{name}", delete(remove_address))
        .with_state(commands);
    let reload = Router::new().route("/reload", post(reload)).with_state(Arc::clone(&answers));
    // Each message that is named takes some 50 octets.
    let orders = Router::new()
        .route("/queue", post(order))
        .layer(DefaultBodyLimit::max(ORDER_LEN_MAX))
        .with_state(egress);
    let router = router(answers).merge(changes).merge(reload).merge(orders);
    axum::serve(tokio::net::UnixListener::from_std(listener)?, router).await
}

/// Messages as shard, epoch, offset and id.
#[derive(Debug, serde::Deserialize)]
struct Order {
    verb: egress::Verb,
    messages: Vec<(u16, u64, u64, String)>,
}

/// What an operator wants done with messages that wait; answers which of them are not known.
async fn order(State(egress): State<egress::Router>, body: String) -> Response {
    let order: Order = match serde_json::from_str(&body) {
        Ok(order) => order,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("no order: {error}\n")).into_response(),
    };
    let named = |(shard, epoch, offset, id): (u16, u64, u64, String)| {
        Some(egress::Named { shard, epoch, offset, id: id.parse().ok()? })
    };
    let messages: Vec<_> = order.messages.into_iter().filter_map(named).collect();
    let done = tokio::task::spawn_blocking(move || egress.order(order.verb, &messages)).await;
    json(&match done {
        Ok(Some(missed)) => {
            json!({ "missed": missed.iter().map(ToString::to_string).collect::<Vec<_>>() })
        }
        Ok(None) => json!({ "error": "a delivery thread does not answer; see the log" }),
        Err(error) => json!({ "error": error.to_string() }),
    })
}

async fn add_address(
    State(commands): State<Sender<Command>>,
    Path((listener, address)): Path<(String, String)>,
) -> Response {
    let address = parse_bind(&address);
    carry_out(commands, address.map(|address| Verb::AddAddress { listener, address })).await
}

async fn remove_address(State(commands): State<Sender<Command>>, Path(address): Path<String>) -> Response {
    carry_out(commands, parse_bind(&address).map(Verb::RemoveAddress)).await
}

/// Waits for the main thread.
async fn carry_out(commands: Sender<Command>, verb: Result<Verb, String>) -> Response {
    let done = match verb {
        Ok(verb) => {
            let (answer, answered) = oneshot::channel();
            let stopping = || Err("the server is stopping".to_owned());
            match commands.send(Command { verb, answer }) {
                Ok(()) => answered.await.unwrap_or_else(|_| stopping()),
                Err(_) => stopping(),
            }
        }
        Err(why) => Err(why),
    };
    json(&match done {
        Ok(done) => json!({ "done": done }),
        Err(why) => json!({ "error": why }),
    })
}

/// Answers at `listener` until dropped.
pub(super) async fn serve(listener: std::net::TcpListener, answers: Arc<Answers>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Bounded {
        listener: TcpListener::from_std(listener)?,
        places: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_COUNT_MAX)),
    };
    axum::serve(listener, router(answers)).await
}

fn router(answers: Arc<Answers>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/listeners", get(listeners))
        .route("/visitors/{name}", get(visitor).post(expect_visitor))
        .fallback(|| async {
            let text = "not found: try /healthz, /readyz, /metrics, /listeners\n";
            (StatusCode::NOT_FOUND, text)
        })
        .with_state(answers)
}

async fn readyz(State(answers): State<Arc<Answers>>) -> (StatusCode, String) {
    let reasons: String =
        answers.readiness.obstacles().map(|obstacle| format!("not ready: {}\n", obstacle.text())).collect();
    let warnings: String =
        answers.readiness.warnings().map(|warning| format!("warning: {}\n", warning.text())).collect();
    if reasons.is_empty() {
        (StatusCode::OK, format!("ready\n{warnings}"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons + &warnings)
    }
}

async fn metrics_text(State(answers): State<Arc<Answers>>) -> Response {
    match metrics::text(&answers.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response(),
    }
}

/// Answers when the new configuration is in force, or why it is not.
async fn reload(State(answers): State<Arc<Answers>>) -> Response {
    let reloads = answers.reloads.clone();
    let done = tokio::task::spawn_blocking(move || reloads.ask_and_wait()).await;
    json(&match done {
        Ok(Ok(reloaded)) => json!(reloaded),
        Ok(Err(error)) => json!({ "error": error.to_string() }),
        Err(error) => json!({ "error": error.to_string() }),
    })
}

fn json(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}

/// Each address that is listened on, and who answers there.
async fn listeners(State(answers): State<Arc<Answers>>) -> Response {
    let standing = |standing: Standing| {
        let Standing { listener, address, exclusivity, durability, proof, .. } = standing;
        let why = match &proof {
            Proof::Failed(why) => Some(why.as_str()),
            Proof::Missing | Proof::Ours => None,
        };
        json!({
            "listener": listener, "address": address.to_string(), "exclusive": exclusivity.name(),
            "how": exclusivity.text(), "durability": durability.to_string(),
            "answered_by_us": proof == Proof::Ours, "why_not": why,
        })
    };
    json(&answers.board.standings().into_iter().map(standing).collect())
}

/// Announces a connection from an address and port, so that its client can ask whether it came in here.
async fn expect_visitor(
    State(answers): State<Arc<Answers>>,
    Path(peer): Path<String>,
    headers: HeaderMap,
) -> Response {
    // No page in a browser can send this without being asked first.
    if !headers.contains_key(OWN_HEADER) {
        return (StatusCode::FORBIDDEN, "send the header x-ringmx\n").into_response();
    }
    let Ok(peer) = peer.parse() else {
        return (StatusCode::BAD_REQUEST, "this takes /visitors/ADDRESS:PORT\n").into_response();
    };
    json(&json!({ "ticket": answers.visitors.announce(peer, Visit::Stay).to_string() }))
}

/// Whether the connection came in here, and where. Asked once.
async fn visitor(State(answers): State<Arc<Answers>>, Path(ticket): Path<String>) -> Response {
    let Ok(ticket) = ticket.parse::<Ticket>() else {
        return (StatusCode::NOT_FOUND, "no such ticket\n").into_response();
    };
    let seen_at = answers.visitors.seen_at(ticket);
    answers.visitors.forget(ticket);
    let standings = answers.board.standings();
    let standing = standings.iter().find(|standing| Some(standing.id) == seen_at);
    let listener = standing.map(|standing| standing.listener.as_str());
    json(&json!({ "seen": seen_at.is_some(), "listener": listener }))
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
        (Connection { stream, ends: Box::pin(sleep(ADMIN_CONNECTION_TIME_MAX)), _place: place }, client)
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
