//! Northstar 0.9.2's client as a shell: a line of JSON in is a call, a line of JSON out its result.
//!
//!     client URL CAPACITY [CALL..]
//!
//! URL is `tcp://HOST:PORT`, `unix://PATH`, or `env` for the descriptor in NORTHSTAR_CONSOLE;
//! CAPACITY is the number of notifications to keep, `none` for no subscription. Calls are the
//! arguments, or the lines of stdin. The first line out is the result of connecting. A result is
//! `{"ok": value}` with the value as the types of Northstar 0.9.2 write it, or
//! `{"error": [kind, what]}`.

use anyhow::{anyhow, bail, Context, Result};
use futures::StreamExt;
use northstar_client::{error::Error, model, Client};
use serde_json::{from_value, json, to_value, Value};
use std::{collections::HashMap, env, path::Path, time::Duration};
use tokio::{
    io::{self, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream},
    net::{TcpStream, UnixStream},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

enum Answer {
    Ok(Value),
    Refused(Error),
}

/// The result of Northstar 0.9.2's client; other failures are those of the test itself.
fn answer<T>(
    result: std::result::Result<T, Error>,
    value: impl Fn(T) -> Result<Value>,
) -> Result<Answer> {
    Ok(match result {
        Ok(ok) => Answer::Ok(value(ok)?),
        Err(error) => Answer::Refused(error),
    })
}

fn json<T: serde::Serialize>(value: T) -> Result<Value> {
    Ok(to_value(value)?)
}

fn none(_: ()) -> Result<Value> {
    Ok(Value::Null)
}

fn print(answer: Answer) -> Result<()> {
    let line = match answer {
        Answer::Ok(value) => json!({ "ok": value }),
        Answer::Refused(error) => {
            let (kind, what) = match error {
                Error::Runtime(error) => ("runtime", to_value(error)?),
                Error::ProtocolVersion => ("protocol_version", Value::Null),
                Error::PermissionDenied => ("permission_denied", Value::Null),
                Error::LaggedNotifications => ("lagged", Value::Null),
                Error::InvalidArgument(what) => ("invalid_argument", Value::String(what)),
                Error::ConnectionClosed => ("connection_closed", Value::Null),
                Error::Io(error) => ("io", Value::String(error.to_string())),
            };
            json!({ "error": [kind, what] })
        }
    };
    println!("{line}");
    Ok(())
}

/// A package as a stream that comes in small pieces.
async fn trickle(path: &str) -> Result<(DuplexStream, u64)> {
    let data = tokio::fs::read(path).await?;
    let size = data.len() as u64;
    let (mut sender, receiver) = io::duplex(1000);
    tokio::spawn(async move {
        for piece in data.chunks(777) {
            if sender.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    Ok((receiver, size))
}

async fn call<T: Stream>(client: &mut Client<T>, line: &str) -> Result<Answer> {
    let arguments: Vec<Value> = serde_json::from_str(line).context(line.to_string())?;
    let text = |index: usize| -> Result<&str> {
        let value = arguments.get(index).and_then(Value::as_str);
        value.ok_or_else(|| anyhow!("argument {index} of {line} is no string"))
    };
    let value = |index: usize| arguments.get(index).cloned().unwrap_or_default();
    match text(0)? {
        "ident" => answer(client.ident().await, json),
        "list" => answer(client.list().await, json),
        "repositories" => answer(client.repositories().await, json),
        "inspect" => answer(client.inspect(text(1)?).await, json),
        "mount" => {
            let containers: Vec<String> = from_value(value(1))?;
            let containers = containers.iter().map(String::as_str);
            answer(client.mount_all(containers).await, json)
        }
        "umount" => {
            let containers: Vec<String> = from_value(value(1))?;
            let containers = containers.iter().map(String::as_str);
            answer(client.umount_all(containers).await, json)
        }
        "start" => answer(client.start(text(1)?).await, none),
        "start_command" => {
            let init: Option<String> = from_value(value(2))?;
            let words: Vec<String> = from_value(value(3))?;
            let variables: HashMap<String, String> = from_value(value(4))?;
            let result = client.start_command(text(1)?, init, words, variables).await;
            answer(result, none)
        }
        "kill" => answer(client.kill(text(1)?, from_value(value(2))?).await, none),
        "install_file" => answer(
            client.install_file(Path::new(text(1)?), text(2)?).await,
            json,
        ),
        "install_stream" => {
            let (stream, size) = trickle(text(1)?).await?;
            answer(client.install(stream, size, text(2)?).await, json)
        }
        "uninstall" => answer(
            client.uninstall(text(1)?, from_value(value(2))?).await,
            none,
        ),
        "create_token" => answer(client.create_token(text(1)?, text(2)?).await, json),
        "verify_token" => {
            let token: model::Token = from_value(value(1))?;
            answer(client.verify_token(&token, text(2)?, text(3)?).await, json)
        }
        "shutdown" => {
            client.shutdown().await;
            none(()).map(Answer::Ok)
        }
        "request" => answer(client.request(from_value(value(1))?).await, json),
        "notification" => match timeout(PATIENCE, client.next()).await? {
            Some(Ok(notification)) => json(notification).map(Answer::Ok),
            Some(Err(error)) => Ok(Answer::Refused(Error::Io(error))),
            None => Ok(Answer::Refused(Error::ConnectionClosed)),
        },
        other => bail!("no call {other}"),
    }
}

async fn run<T: Stream>(
    connected: std::result::Result<Client<T>, Error>,
    calls: &[String],
) -> Result<()> {
    let mut client = match connected {
        Ok(client) => client,
        Err(error) => return print(Answer::Refused(error)),
    };
    print(Answer::Ok(Value::Null))?;
    for line in calls {
        print(call(&mut client, line).await?)?;
    }
    if calls.is_empty() {
        let mut lines = BufReader::new(io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            print(call(&mut client, &line).await?)?;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, capacity, calls @ ..] = arguments.as_slice() else {
        bail!("usage: client URL CAPACITY [CALL..]");
    };
    let capacity = match capacity.as_str() {
        "none" => None,
        number => Some(number.parse()?),
    };
    if url == "env" {
        run(Client::from_env(capacity).await, calls).await?;
    } else if let Some(path) = url.strip_prefix("unix://") {
        let stream = UnixStream::connect(path).await?;
        run(Client::new(stream, capacity).await, calls).await?;
    } else if let Some(address) = url.strip_prefix("tcp://") {
        let stream = TcpStream::connect(address).await?;
        run(Client::new(stream, capacity).await, calls).await?;
    } else {
        bail!("{url} is no URL");
    }
    // The thread that reads stdin would be waited for.
    std::process::exit(0)
}
