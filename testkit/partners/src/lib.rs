//! A federation partner: a real XMPP server (Prosody or ejabberd) and a real XMPP client for its user.
//!
//! ```text
//! testkit partner-server --dir DIR --address 198.51.100.20 --dns 198.51.100.53 --domain vngtp.lab --user bob:PASSWORD
//! testkit partner --jid bob@vngtp.lab --password PASSWORD --server 198.51.100.20:5222 --control 198.51.100.20:8080
//! ```
//! - `partner-server` writes the server's configuration, certificate and accounts into DIR and becomes the server
//!   (it replaces its own process, so who started it can watch and stop it). Its log is `DIR/server.log` or `--log FILE`.
//! - `partner` logs in and gives the user an HTTP face: see [`control`]. It keeps trying to connect.
//!
//! [`server`] knows the kinds of servers and what can be configured; [`certificates`] good and bad certificates;
//! [`session`] the user.

pub mod certificates;
mod config;
pub mod control;
mod ejabberd;
mod prosody;
pub mod server;
pub mod session;

use std::net::SocketAddr;

use testkit_base::Error;

/// Arguments of `testkit partner`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bare JID of the user, for example `bob@vngtp.lab`.
    #[arg(long)]
    pub jid: String,
    /// The user's password.
    #[arg(long)]
    pub password: String,
    /// The server's address for clients.
    #[arg(long, value_name = "ADDRESS:5222")]
    pub server: SocketAddr,
    /// Address of the user's HTTP face.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub control: SocketAddr,
}

/// Runs `testkit partner` until the process is told to stop.
pub async fn run(args: Args) -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind(args.control)
        .await
        .map_err(|error| format!("cannot listen on {} for control: {error}", args.control))?;
    let user = session::User::connect(&args.jid, &args.password, args.server)?;
    tracing::info!(jid = args.jid, control = %args.control, "user's HTTP face listens");
    let serving = axum::serve(listener, control::router([user])).into_future();
    tokio::select! {
        outcome = serving => outcome?,
        () = testkit_base::stop_asked() => {}
    }
    Ok(())
}
