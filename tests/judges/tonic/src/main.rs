//! A client of `grpc.testing.TestService` by tonic, as gRPC's description of its interop tests wants it.
//!
//!     tonic-interop CASE URL [CA]
//!
//! With "+gzip" at the end of CASE, what it sends is compressed. It ends with 0 where it is content; else it says
//! why.

mod messages;

use std::time::Duration;

use messages::*;
use tokio::sync::mpsc;
use tokio_stream::{iter, wrappers::ReceiverStream, StreamExt};
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const SENT_BYTES: [usize; 4] = [27182, 8, 1828, 45904];
const WANTED_BYTES: [i32; 4] = [31415, 9, 2653, 58979];
const INITIAL: &str = "x-grpc-test-echo-initial";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";
const STATUS_TEXT: &str = "\t\nwhitespace\r\n, Unicode BMP \u{263a} and more \u{1f608}\t\n";
/// Long enough for the first message of a stream on a busy machine, mostly: where it is not, that is no fault.
const DEADLINE: Duration = Duration::from_millis(500);

macro_rules! expect {
    ($what:expr, $got:expr, $want:expr) => {
        let (got, want) = (&$got, &$want);
        if got != want {
            return Err(format!("{}: {:?}, want {:?}", $what, got, want).into());
        }
    };
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = ask(&arguments).await {
        println!("{error}");
        std::process::exit(1);
    }
}

async fn ask(arguments: &[String]) -> Outcome {
    let [case, url, ca @ ..] = arguments else {
        return Err("usage: tonic-interop CASE URL [CA]".into());
    };
    let mut endpoint = Endpoint::from_shared(url.clone())?;
    if let [file] = ca {
        let roots = Certificate::from_pem(std::fs::read(file)?);
        endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(roots))?;
    }
    let mut client = Grpc::new(endpoint.connect().await?);
    let (case, encoding) = case.split_once('+').unwrap_or((case, "identity"));
    client = match encoding {
        "identity" => client,
        "gzip" => client
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip),
        other => return Err(format!("no such encoding: {other}").into()),
    };
    match case {
        "empty_unary" => empty_unary(client).await,
        "large_unary" => large_unary(client).await,
        "client_streaming" => client_streaming(client).await,
        "server_streaming" => server_streaming(client).await,
        "ping_pong" => ping_pong(client).await,
        "empty_stream" => empty_stream(client).await,
        "custom_metadata" => custom_metadata(client).await,
        "special_status_message" => special_status_message(client).await,
        "unimplemented_method" => unimplemented_method(client).await,
        "cancel_after_first_response" => cancel_after_first_response(client).await,
        "deadline_within_stream" => deadline_within_stream(client).await,
        "many_at_once" => many_at_once(client).await,
        other => Err(format!("no such case: {other}").into()),
    }
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

fn payload(size: usize) -> Option<Payload> {
    Some(Payload {
        kind: 0,
        body: vec![0; size],
    })
}

fn size(payload: &Option<Payload>) -> usize {
    payload.as_ref().map_or(0, |some| some.body.len())
}

fn wants(sizes: &[i32], sent: usize) -> StreamingOutputCallRequest {
    StreamingOutputCallRequest {
        response_parameters: sizes
            .iter()
            .map(|&size| ResponseParameters {
                size,
                interval_us: 0,
            })
            .collect(),
        payload: payload(sent),
        ..Default::default()
    }
}

/// Before each call: tonic wants it.
async fn ready(client: &mut Grpc<Channel>) -> Result<(), Status> {
    client
        .ready()
        .await
        .map_err(|error| Status::from_error(error.into()))
}

async fn unary(
    client: &mut Grpc<Channel>,
    request: Request<SimpleRequest>,
) -> Result<Response<SimpleResponse>, Status> {
    ready(client).await?;
    client
        .unary(
            request,
            path("/grpc.testing.TestService/UnaryCall"),
            ProstCodec::default(),
        )
        .await
}

/// A call both ways, and where its messages are put in.
async fn full_duplex(
    client: &mut Grpc<Channel>,
    adorn: impl FnOnce(&mut Request<ReceiverStream<StreamingOutputCallRequest>>),
    first: StreamingOutputCallRequest,
) -> Result<
    (
        mpsc::Sender<StreamingOutputCallRequest>,
        Response<Streaming<StreamingOutputCallResponse>>,
    ),
    Status,
> {
    let (sender, receiver) = mpsc::channel(4);
    // Before the call: its headers come back with the first reply.
    let _ = sender.send(first).await;
    let mut request = Request::new(ReceiverStream::new(receiver));
    adorn(&mut request);
    let method = path("/grpc.testing.TestService/FullDuplexCall");
    ready(client).await?;
    Ok((
        sender,
        client
            .streaming(request, method, ProstCodec::default())
            .await?,
    ))
}

async fn empty_unary(mut client: Grpc<Channel>) -> Outcome {
    ready(&mut client).await?;
    let method = path("/grpc.testing.TestService/EmptyCall");
    client
        .unary::<_, Empty, _>(Request::new(Empty {}), method, ProstCodec::default())
        .await?;
    Ok(())
}

async fn large_unary(mut client: Grpc<Channel>) -> Outcome {
    let request = SimpleRequest {
        response_size: 314159,
        payload: payload(271828),
        ..Default::default()
    };
    let reply = unary(&mut client, Request::new(request))
        .await?
        .into_inner();
    expect!("size of the reply", size(&reply.payload), 314159);
    Ok(())
}

async fn client_streaming(mut client: Grpc<Channel>) -> Outcome {
    ready(&mut client).await?;
    let requests = SENT_BYTES.map(|size| StreamingInputCallRequest {
        payload: payload(size),
    });
    let method = path("/grpc.testing.TestService/StreamingInputCall");
    let codec = ProstCodec::<_, StreamingInputCallResponse>::default();
    let reply = client
        .client_streaming(Request::new(iter(requests)), method, codec)
        .await?
        .into_inner();
    expect!("size of all", reply.aggregated_payload_size, 74922);
    Ok(())
}

async fn server_streaming(mut client: Grpc<Channel>) -> Outcome {
    ready(&mut client).await?;
    let method = path("/grpc.testing.TestService/StreamingOutputCall");
    let codec = ProstCodec::<_, StreamingOutputCallResponse>::default();
    let request = Request::new(wants(&WANTED_BYTES, 0));
    let mut replies = client
        .server_streaming(request, method, codec)
        .await?
        .into_inner();
    for wanted in WANTED_BYTES {
        let reply = replies.message().await?.ok_or("the stream ended early")?;
        expect!("size of a reply", size(&reply.payload), wanted as usize);
    }
    expect!("after the last reply", replies.message().await?, None);
    Ok(())
}

async fn ping_pong(mut client: Grpc<Channel>) -> Outcome {
    let first = wants(&WANTED_BYTES[..1], SENT_BYTES[0]);
    let (sender, replies) = full_duplex(&mut client, |_| (), first).await?;
    let mut replies = replies.into_inner();
    for turn in 0..SENT_BYTES.len() {
        if turn > 0 {
            sender
                .send(wants(&WANTED_BYTES[turn..=turn], SENT_BYTES[turn]))
                .await?;
        }
        let reply = replies.message().await?.ok_or("the stream ended early")?;
        expect!(
            "size of a reply",
            size(&reply.payload),
            WANTED_BYTES[turn] as usize
        );
    }
    drop(sender);
    expect!("after the last reply", replies.message().await?, None);
    Ok(())
}

async fn empty_stream(mut client: Grpc<Channel>) -> Outcome {
    ready(&mut client).await?;
    let method = path("/grpc.testing.TestService/FullDuplexCall");
    let nothing = Request::new(tokio_stream::empty::<StreamingOutputCallRequest>());
    let codec = ProstCodec::<_, StreamingOutputCallResponse>::default();
    let replies = client.streaming(nothing, method, codec).await?.into_inner();
    expect!("replies", replies.collect::<Vec<_>>().await.len(), 0);
    Ok(())
}

async fn custom_metadata(mut client: Grpc<Channel>) -> Outcome {
    let binary = b"\x0a\x0b\xff\x00\x0b";
    let mut request = Request::new(SimpleRequest {
        response_size: 1,
        ..Default::default()
    });
    request.metadata_mut().insert(INITIAL, "first".parse()?);
    request
        .metadata_mut()
        .insert_bin(TRAILING, MetadataValue::from_bytes(binary));
    // What tonic says of a unary call holds the trailers, too.
    let reply = unary(&mut client, request).await?;
    expect!(
        "initial",
        reply.metadata().get(INITIAL).ok_or("no initial metadata")?,
        "first"
    );
    let trailing = reply
        .metadata()
        .get_bin(TRAILING)
        .ok_or("no trailing metadata")?
        .to_bytes()?;
    expect!("trailing", &trailing[..], &binary[..]);

    let adorn = |request: &mut Request<_>| {
        request
            .metadata_mut()
            .insert(INITIAL, MetadataValue::from_static("first"));
        request
            .metadata_mut()
            .insert_bin(TRAILING, MetadataValue::from_bytes(binary));
    };
    let (sender, replies) = full_duplex(&mut client, adorn, wants(&[1], 1)).await?;
    expect!(
        "initial of a stream",
        replies
            .metadata()
            .get(INITIAL)
            .ok_or("no initial metadata")?,
        "first"
    );
    let mut replies = replies.into_inner();
    replies.message().await?.ok_or("the stream ended early")?;
    drop(sender);
    expect!("after the last reply", replies.message().await?, None);
    let trailers = replies.trailers().await?.ok_or("no trailers")?;
    let trailing = trailers
        .get_bin(TRAILING)
        .ok_or("no trailing metadata")?
        .to_bytes()?;
    expect!("trailing of a stream", &trailing[..], &binary[..]);
    Ok(())
}

async fn special_status_message(mut client: Grpc<Channel>) -> Outcome {
    let status = EchoStatus {
        code: Code::Unknown as i32,
        message: STATUS_TEXT.into(),
    };
    let request = SimpleRequest {
        response_status: Some(status.clone()),
        ..Default::default()
    };
    let error = unary(&mut client, Request::new(request))
        .await
        .err()
        .ok_or("the call went well")?;
    expect!(
        "of a unary call",
        (error.code(), error.message()),
        (Code::Unknown, STATUS_TEXT)
    );

    let request = StreamingOutputCallRequest {
        response_status: Some(status),
        ..Default::default()
    };
    let error = match full_duplex(&mut client, |_| (), request).await {
        Ok((_sender, replies)) => replies
            .into_inner()
            .message()
            .await
            .err()
            .ok_or("the stream went well")?,
        Err(error) => error,
    };
    expect!(
        "of a stream",
        (error.code(), error.message()),
        (Code::Unknown, STATUS_TEXT)
    );
    Ok(())
}

async fn unimplemented_method(mut client: Grpc<Channel>) -> Outcome {
    ready(&mut client).await?;
    let method = path("/grpc.testing.TestService/UnimplementedCall");
    let called = client
        .unary::<_, Empty, _>(Request::new(Empty {}), method, ProstCodec::default())
        .await;
    expect!(
        "status",
        called.err().map(|error| error.code()),
        Some(Code::Unimplemented)
    );
    Ok(())
}

async fn cancel_after_first_response(mut client: Grpc<Channel>) -> Outcome {
    let (sender, replies) = full_duplex(&mut client, |_| (), wants(&[31415], 27182)).await?;
    let mut replies = replies.into_inner();
    let reply = replies.message().await?.ok_or("the stream ended early")?;
    expect!("size of the reply", size(&reply.payload), 31415);
    drop((replies, sender));
    large_unary(client).await
}

/// The server ends the stream: tonic minds a deadline only until a call's headers come back.
async fn deadline_within_stream(mut client: Grpc<Channel>) -> Outcome {
    let called = full_duplex(
        &mut client,
        |request| request.set_timeout(DEADLINE),
        wants(&[1], 1),
    )
    .await;
    let (_sender, replies) = match called {
        Err(error) if matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled) => {
            return Ok(())
        }
        other => other?,
    };
    let mut replies = replies.into_inner();
    loop {
        match replies.message().await {
            Ok(Some(_)) => (),
            Ok(None) => return Err("the stream ended well".into()),
            Err(error) => {
                expect!("status", error.code(), Code::DeadlineExceeded);
                return Ok(());
            }
        }
    }
}

async fn many_at_once(client: Grpc<Channel>) -> Outcome {
    let mut calls = Vec::new();
    for turn in 0..100 {
        let client = client.clone();
        let one = async move {
            let done = if turn % 2 == 0 {
                ping_pong(client).await
            } else {
                large_unary(client).await
            };
            done.map_err(|error| error.to_string())
        };
        calls.push(tokio::spawn(one));
    }
    for call in calls {
        call.await??;
    }
    Ok(())
}
