//! The load: plain stubs on one core, one call after another on each connection.

use std::time::Duration;

use credbroker::proto::{GetTokenRequest, credential_broker_client::CredentialBrokerClient as Stub};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::Instant};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::{
    Result,
    server::{CAPABILITY, Server, bucket},
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) turn: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Calls in a second, over all connections.
    pub(crate) rate: f64,
    /// CPU time of the server's process.
    pub(crate) cpu_per_call: Duration,
}

/// Pins the process to one core. Where that is not allowed, the figures are only noisier.
pub(crate) fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("not pinned to core {core}: {error}");
    }
}

/// One turn.
pub(crate) fn measure(server: &Server, load: Load) -> Result<Measured> {
    let cpu = server.cpu()?;
    let started = Instant::now();
    let mut times = runtime()?.block_on(async {
        let mut tasks = Vec::new();
        for _ in 0..load.connections {
            let stub = connect(server).await?;
            tasks.push(tokio::spawn(calls(stub, load.turn)));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await?.map_err(|status| status.to_string())?);
        }
        Result::Ok(times)
    })?;
    let elapsed = started.elapsed();
    let cpu = server.cpu()?.saturating_sub(cpu);
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    let count = u32::try_from(times.len())?;
    Ok(Measured {
        p50: at(50),
        p99: at(99),
        rate: f64::from(count) / elapsed.as_secs_f64(),
        cpu_per_call: cpu / count.max(1),
    })
}

async fn calls(mut stub: Stub<Channel>, turn: Duration) -> std::result::Result<Vec<Duration>, tonic::Status> {
    let end = Instant::now() + turn;
    let mut times = Vec::with_capacity(32 * 1024);
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(times);
        }
        stub.get_token(request(0)).await?;
        times.push(began.elapsed());
    }
}

/// Connects and calls once.
pub(crate) fn one_call(server: &Server) -> Result<()> {
    runtime()?.block_on(async {
        connect(server).await?.get_token(request(0)).await?;
        Ok(())
    })
}

/// Reads every entry once.
pub(crate) fn read_all(server: &Server, entries: usize) -> Result<()> {
    runtime()?.block_on(async {
        let mut stub = connect(server).await?;
        for entry in 0..entries {
            stub.get_token(request(entry)).await?;
        }
        Ok(())
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn connect(server: &Server) -> Result<Stub<Channel>> {
    let socket = server.socket.clone();
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await?;
    Ok(Stub::new(channel))
}

fn request(entry: usize) -> Request<GetTokenRequest> {
    let mut request = Request::new(GetTokenRequest {
        provider: "bench".into(),
        bucket: bucket(entry),
        min_validity: None,
    });
    let capability = format!("Bearer {}", data_encoding::HEXLOWER.encode(&CAPABILITY));
    if let Ok(capability) = capability.parse() {
        request.metadata_mut().insert("authorization", capability);
    }
    request
}
