//! Streams, by hand: what an API server does with watches, keep-alives, and what only 3.5 and later can.

use super::super::pb::{mvccpb, v3electionpb as ep, v3lockpb as lp};
use super::*;

type Requests = mpsc::Sender<pb::WatchRequest>;
type Answers = Streaming<pb::WatchResponse>;

fn on(key: &str, start_revision: i64) -> pb::WatchCreateRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let (key, range_end) = (key.to_owned().into(), end.into());
    pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() }
}

async fn create(requests: &Requests, answers: &mut Answers, create: pb::WatchCreateRequest) -> i64 {
    send(requests, RequestUnion::CreateRequest(create)).await;
    let created = next(answers).await;
    assert!(created.created && !created.canceled, "{created:?}");
    created.watch_id
}

async fn send(requests: &Requests, request: RequestUnion) {
    requests.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
}

async fn next(answers: &mut Answers) -> pb::WatchResponse {
    tokio::time::timeout(std::time::Duration::from_secs(20), answers.message()).await.unwrap().unwrap().unwrap()
}

async fn watch(client: &Client) -> (Requests, Answers) {
    client.stream::<pb::WatchRequest, pb::WatchResponse>(WATCH).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_on_request_follows_the_events() {
    let ours = Ours::start().await;
    let client = ours.client().await;
    let (requests, mut answers) = watch(&client).await;
    for prefix in ["p/", "q/", "r/"] {
        create(&requests, &mut answers, on(prefix, 0)).await;
    }
    for round in 0..20 {
        let last = client.put(&format!("p/{round}"), "1").await;
        let last = if round % 2 == 0 { client.put("elsewhere", "1").await } else { last };
        send(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
        let mut events = 0;
        loop {
            let answer = next(&mut answers).await;
            let revision = answer.header.unwrap().revision;
            if answer.watch_id == -1 {
                assert!(answer.events.is_empty() && !answer.created && !answer.canceled);
                assert!(revision >= last, "{revision} < {last}");
                break;
            }
            events += answer.events.len();
        }
        assert_eq!(events, 1, "all events come before the progress that covers them");
    }
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_waits_for_a_watch_that_is_behind() {
    let ours = Ours::with(|config| SqliteConfig { watch_buffer: 1, ring_events: 4, ..config }, |face| face).await;
    let client = ours.client().await;
    let first = client.put("p/0", "1").await;
    for i in 1..200 {
        client.put(&format!("p/{i}"), "1").await;
    }
    let (requests, mut answers) = watch(&client).await;
    create(&requests, &mut answers, on("p/", first)).await;
    send(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let mut events = 0;
    loop {
        let answer = next(&mut answers).await;
        if answer.watch_id == -1 {
            assert_eq!(answer.header.unwrap().revision, first + 199);
            break;
        }
        events += answer.events.len();
    }
    assert_eq!(events, 200);
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quiet_watches_are_told_the_revision() {
    let interval = std::time::Duration::from_millis(50);
    let ours = Ours::with(|config| config, |face| FaceConfig { progress_interval: interval, ..face }).await;
    let client = ours.client().await;
    let (requests, mut answers) = watch(&client).await;
    create(&requests, &mut answers, on("silent/", 0)).await;
    let id = create(&requests, &mut answers, pb::WatchCreateRequest { progress_notify: true, ..on("p/", 0) }).await;
    let revision = client.put("elsewhere", "1").await;
    until("progress", async || {
        let answer = next(&mut answers).await;
        assert_eq!((answer.watch_id, answer.events.len()), (id, 0));
        answer.header.unwrap().revision == revision
    })
    .await;
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_responses_come_in_fragments() {
    let ours = Ours::start().await;
    let client = ours.client().await;
    let value = vec![7; 600 << 10];
    let mut first = 0;
    for i in 0..8 {
        let put = pb::PutRequest { key: format!("f/{i}").into(), value: value.clone().into(), ..Default::default() };
        let answer: pb::PutResponse = client.unary(PUT, put).await.unwrap();
        first = if i == 0 { answer.header.unwrap().revision } else { first };
    }
    let (requests, mut answers) = watch(&client).await;
    create(&requests, &mut answers, pb::WatchCreateRequest { fragment: true, ..on("f/", first) }).await;
    let (mut events, mut fragments) = (0, 0);
    while events < 8 {
        let answer = next(&mut answers).await;
        assert!(prost::Message::encoded_len(&answer) <= 2 << 20);
        events += answer.events.len();
        fragments += usize::from(answer.fragment);
    }
    assert!(fragments > 0);
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_watches_do_not_end_the_stream() {
    let ours = Ours::start().await;
    let client = ours.client().await;
    let (requests, mut answers) = watch(&client).await;
    let id = create(&requests, &mut answers, pb::WatchCreateRequest { watch_id: 9, ..on("p/", 0) }).await;
    assert_eq!(id, 9);
    send(&requests, RequestUnion::CreateRequest(pb::WatchCreateRequest { watch_id: 9, ..on("p/", 0) })).await;
    let answer = next(&mut answers).await;
    assert!(answer.canceled && answer.cancel_reason.contains("duplicate watch ID"), "{answer:?}");
    requests.send(pb::WatchRequest { request_union: None }).await.unwrap();
    send(&requests, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 1234 })).await;
    client.put("p/a", "1").await;
    let answer = next(&mut answers).await;
    assert_eq!((answer.watch_id, answer.events.len()), (9, 1));
    send(&requests, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 9 })).await;
    assert!(next(&mut answers).await.canceled);
    // The requests may end before the watches do.
    let id = create(&requests, &mut answers, on("p/", 0)).await;
    drop(requests);
    client.put("p/b", "1").await;
    assert_eq!(next(&mut answers).await.watch_id, id);
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_watch_is_told_where_history_begins() {
    let ours = Ours::start().await;
    let client = ours.client().await;
    for _ in 0..10 {
        client.put("p/a", "1").await;
    }
    let compact = pb::CompactionRequest { revision: 8, physical: true };
    client.unary::<_, pb::CompactionResponse>(COMPACT, compact).await.unwrap();
    let (requests, mut answers) = watch(&client).await;
    let id = create(&requests, &mut answers, on("p/", 3)).await;
    let answer = next(&mut answers).await;
    assert_eq!((answer.watch_id, answer.canceled, answer.compact_revision), (id, true, 8));
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_kept_alive_and_expire() {
    let ours = Ours::start().await;
    let client = ours.client().await;
    let granted: pb::LeaseGrantResponse = client.unary(GRANT, pb::LeaseGrantRequest { ttl: 1, id: 5 }).await.unwrap();
    assert_eq!((granted.id, granted.ttl), (5, 2), "the shortest there is");
    client.unary::<_, pb::PutResponse>(PUT, pb::PutRequest { lease: 5, ..put("l/a", "1") }).await.unwrap();
    client.unary::<_, pb::PutResponse>(PUT, pb::PutRequest { lease: 5, ..put("l/b", "1") }).await.unwrap();
    let (requests, mut answers) =
        client.stream::<pb::LeaseKeepAliveRequest, pb::LeaseKeepAliveResponse>(KEEP_ALIVE).await;
    for (id, ttl) in [(5, 2), (6, 0), (5, 2)] {
        requests.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (id, ttl));
    }
    let (watches, mut events) = watch(&client).await;
    create(&watches, &mut events, on("l/", 0)).await;
    let answer = next(&mut events).await;
    assert_eq!(answer.events.len(), 2, "both keys in one revision: {answer:?}");
    assert!(answer.events.iter().all(|event| event.r#type == mvccpb::event::EventType::Delete as i32));
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_pass_from_one_to_the_next() {
    let ours = Ours::start().await;
    let client = ours.client().await;
    let lock = async |lease| {
        let request = lp::LockRequest { name: "lock".into(), lease };
        client.unary::<_, lp::LockResponse>("/v3lockpb.Lock/Lock", request).await
    };
    for id in [0x11, 0x12, 0x13] {
        client.unary::<_, pb::LeaseGrantResponse>(GRANT, pb::LeaseGrantRequest { ttl: 60, id }).await.unwrap();
    }
    assert_eq!(lock(0x11).await.unwrap().key, "lock/11");
    // Whoever stops waiting leaves nothing behind.
    let keys = async || {
        let range = pb::RangeRequest { count_only: true, ..range("lock/", "lock0") };
        client.unary::<_, pb::RangeResponse>(RANGE, range).await.unwrap().count
    };
    {
        let mut waiting = std::pin::pin!(lock(0x12));
        until("the second waits", async || {
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            keys().await == 2
        })
        .await;
    }
    until("the second has given up", async || keys().await == 1).await;
    let unlock = async {
        until("the third waits", async || keys().await == 2).await;
        let request = lp::UnlockRequest { key: "lock/11".into() };
        client.unary::<_, lp::UnlockResponse>("/v3lockpb.Lock/Unlock", request).await.unwrap();
    };
    let (third, ()) = tokio::join!(lock(0x13), unlock);
    assert_eq!(third.unwrap().key, "lock/13");
    assert_eq!(lock(0x99).await.unwrap_err().message(), "etcdserver: requested lease not found");
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_have_one_leader() {
    let ours = Ours::start().await;
    let client = ours.client().await;
    for id in [1, 2] {
        client.unary::<_, pb::LeaseGrantResponse>(GRANT, pb::LeaseGrantRequest { ttl: 60, id }).await.unwrap();
    }
    let campaign = async |lease, value: &'static str| {
        let request = ep::CampaignRequest { name: "job".into(), lease, value: value.into() };
        client
            .unary::<_, ep::CampaignResponse>("/v3electionpb.Election/Campaign", request)
            .await
            .unwrap()
            .leader
            .unwrap()
    };
    let mut observed = client
        .server_stream::<_, ep::LeaderResponse>(
            "/v3electionpb.Election/Observe",
            ep::LeaderRequest { name: "job".into() },
        )
        .await
        .unwrap();
    let mut seen = async || observed.message().await.unwrap().unwrap().kv.unwrap().value;
    let first = campaign(1, "one").await;
    assert_eq!(first.key, "job/1");
    assert_eq!(seen().await, "one");
    let proclaim = ep::ProclaimRequest { leader: Some(first.clone()), value: "uno".into() };
    client.unary::<_, ep::ProclaimResponse>("/v3electionpb.Election/Proclaim", proclaim.clone()).await.unwrap();
    assert_eq!(seen().await, "uno");
    let resign = async {
        let range = || pb::RangeRequest { count_only: true, ..range("job/", "job0") };
        until("the second waits", async || {
            client.unary::<_, pb::RangeResponse>(RANGE, range()).await.unwrap().count == 2
        })
        .await;
        let request = ep::ResignRequest { leader: Some(first.clone()) };
        client.unary::<_, ep::ResignResponse>("/v3electionpb.Election/Resign", request).await.unwrap();
    };
    let (second, ()) = tokio::join!(campaign(2, "two"), resign);
    assert_eq!(second.key, "job/2");
    assert_eq!(seen().await, "two");
    let lost = client.unary::<_, ep::ProclaimResponse>("/v3electionpb.Election/Proclaim", proclaim).await.unwrap_err();
    assert_eq!(lost.message(), "election: not leader");
    ours.stop().await;
}
