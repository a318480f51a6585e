//! A whole tonic server on a Unix socket behind the adapter, called as a stock client calls it.

use credbroker::server::authority::AcceptAnyAuthority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::client::{PREFACE, frame};

const PYTHON: &[u8] = b"\x40\x0a:authority\x10tmp%2Fdir%2Fsock";

/// Calls Health.Check twice on one connection; the second call takes its fields from the dynamic table.
fn calls() -> Vec<u8> {
    let mut first = vec![0x83, 0x86];
    first.extend_from_slice(PYTHON);
    first.extend_from_slice(b"\x44\x1c/grpc.health.v1.Health/Check\x5f\x10application/grpc\x40\x02te\x08trailers");
    let second = [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];
    let message = [0; 5];
    [
        PREFACE,
        &frame(4, 0, 0, &[]),
        &frame(1, 0x4, 1, &first),
        &frame(0, 0x1, 1, &message),
        &frame(1, 0x4, 3, &second),
        &frame(0, 0x1, 3, &message),
    ]
    .concat()
}

#[tokio::test]
async fn a_tonic_server_answers_a_percent_encoded_authority() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = Server::builder().add_service(health);
    let server = tokio::spawn(server.serve_with_incoming(incoming.map(|stream| stream.map(AcceptAnyAuthority::new))));

    let mut client = UnixStream::connect(&path).await.unwrap();
    for octet in calls() {
        client.write_all(&[octet]).await.unwrap();
    }
    // Both answers are the status SERVING in a gRPC message; a refusal would be RST_STREAM.
    let serving = [0, 0, 0, 0, 2, 8, 1];
    let mut answers = 0;
    while answers < 2 {
        let mut header = [0; 9];
        client.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[1], header[2]]))];
        client.read_exact(&mut payload).await.unwrap();
        assert_ne!(header[3], 3, "RST_STREAM");
        answers += usize::from(header[3] == 0 && payload == serving);
    }
    server.abort();
}
