//! Tests of `dispatch`.

use component_base::{Clock as _, FakeClock};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::*;

type Entering = BoxFuture<'static, Result<Seats, (Refused, u32)>>;

struct Fixture {
    dispatcher: Arc<Dispatcher>,
    clock: Arc<FakeClock>,
}

fn limits(nominal: i64, own: i64, queues: usize, length: usize) -> Limits {
    let queuing = (queues > 0).then_some(Queuing { queues, hand: 1, length });
    Limits { nominal, own, most: i64::MAX / 2, queuing }
}

impl Fixture {
    fn new(levels: &[Limits]) -> Self {
        let clock = FakeClock::new(Timestamp::UNIX_EPOCH);
        let dispatcher = Dispatcher::new(clock.clone());
        let this = Self { dispatcher, clock };
        this.configure(levels);
        this
    }

    fn configure(&self, levels: &[Limits]) {
        let named = levels.iter().enumerate().map(|(id, limits)| (id as u64, format!("level-{id}"), *limits));
        self.dispatcher.configure(named);
    }

    fn enter(&self, level: u64, flow: &str) -> Entering {
        let details = Details { schema: "s".into(), flow: flow.into(), ..Details::default() };
        let dispatcher = self.dispatcher.clone();
        async move { dispatcher.enter(level, 1, || details).await }.boxed()
    }

    fn now(&self, level: u64, flow: &str) -> Result<Seats, (Refused, u32)> {
        self.enter(level, flow).now_or_never().expect("an answer at once")
    }
}

/// Asked again, still waiting.
fn waits(entering: &mut Entering) -> bool {
    entering.now_or_never().is_none()
}

#[tokio::test]
async fn without_queues_the_rest_is_rejected() {
    let fixture = Fixture::new(&[limits(2, 2, 0, 0)]);
    let first = fixture.now(0, "a").expect("a seat");
    let _second = fixture.now(0, "a").expect("a seat");
    assert_eq!(fixture.now(0, "a").err(), Some((Refused::ConcurrencyLimit, 1)));
    drop(first);
    let _third = fixture.now(0, "a").expect("the seat that was freed");
}

#[tokio::test]
async fn waits_in_order_and_gives_up() {
    let fixture = Fixture::new(&[limits(1, 1, 1, 2)]);
    let running = fixture.now(0, "a").expect("a seat");
    let (mut second, mut third) = (fixture.enter(0, "a"), fixture.enter(0, "a"));
    assert!(waits(&mut second) && waits(&mut third));
    assert_eq!(fixture.now(0, "a").err(), Some((Refused::QueueFull, 1)));
    drop(running);
    assert!(waits(&mut third));
    let second = second.now_or_never().expect("its turn").expect("a seat");
    fixture.clock.advance(PATIENCE);
    assert_eq!(third.await.err(), Some((Refused::TimeOut, 1)));
    drop(second);
    let _next = fixture.now(0, "a").expect("nothing is left over");
}

#[tokio::test]
async fn flows_take_turns() {
    let fixture = Fixture::new(&[limits(1, 1, 64, 50)]);
    let mut running = Some(fixture.now(0, "loud").expect("a seat"));
    let mut loud: Vec<Entering> = (0..20).map(|_| fixture.enter(0, "loud")).collect();
    assert!(loud.iter_mut().all(waits));
    // Another name might be dealt the same queue: a hand is one here.
    let mut quiet = fixture.enter(0, "calm");
    assert!(waits(&mut quiet));
    let mut before = 0;
    loop {
        fixture.clock.advance(Duration::from_millis(10));
        running.take();
        if let Some(seat) = (&mut quiet).now_or_never() {
            drop(seat.expect("a seat"));
            break;
        }
        running = Some(loud.remove(0).now_or_never().expect("its turn").expect("a seat"));
        before += 1;
    }
    assert!(before <= 2, "{before} of the loud flow went first");
}

#[tokio::test]
async fn lent_seats_come_back() {
    // Each has four and lends two.
    let fixture = Fixture::new(&[limits(4, 2, 8, 50), limits(4, 2, 8, 50)]);
    let mut greedy: Vec<Seats> = (0..6).map(|_| fixture.now(0, "a").expect("own and lent seats")).collect();
    let mut more = fixture.enter(0, "a");
    assert!(waits(&mut more), "the other's own seats are not for lending");
    let _own = [fixture.now(1, "b").expect("own"), fixture.now(1, "b").expect("own")];
    let mut third = fixture.enter(1, "b");
    assert!(waits(&mut third));
    greedy.pop();
    assert!(waits(&mut more), "the lender goes first");
    let _third = third.now_or_never().expect("its turn").expect("a seat");
}

#[tokio::test]
async fn who_goes_away_leaves_nothing() {
    let fixture = Fixture::new(&[limits(1, 1, 1, 5)]);
    let running = fixture.now(0, "a").expect("a seat");
    let (mut gone, mut granted, mut last) = (fixture.enter(0, "a"), fixture.enter(0, "a"), fixture.enter(0, "a"));
    assert!(waits(&mut gone) && waits(&mut granted) && waits(&mut last));
    drop(gone);
    drop(running);
    // Granted, but never looked at.
    drop(granted);
    let seat = last.now_or_never().expect("its turn").expect("a seat");
    fixture.dispatcher.with_levels(|levels| {
        assert_eq!((levels[0].seats, levels[0].waiting, levels[0].cancelled), (1, 0, 1));
    });
    drop(seat);
    fixture.dispatcher.with_levels(|levels| assert_eq!((levels[0].seats, levels[0].executing), (0, 0)));
}

#[tokio::test]
async fn a_removed_level_drains() {
    let fixture = Fixture::new(&[limits(1, 1, 1, 5), limits(1, 1, 1, 5)]);
    let running = fixture.now(1, "a").expect("a seat");
    let mut waiting = fixture.enter(1, "a");
    assert!(waits(&mut waiting));
    fixture.configure(&[limits(1, 1, 1, 5)]);
    drop(running);
    drop(waiting.now_or_never().expect("its turn").expect("a seat"));
    fixture.dispatcher.with_levels(|levels| assert_eq!(levels.len(), 1));
    let _uncounted = fixture.now(1, "a").expect("no level, no limit");
}

#[tokio::test]
async fn clients_are_asked_to_stay_away_for_longer() {
    let fixture = Fixture::new(&[limits(1, 1, 0, 0)]);
    let _running = fixture.now(0, "a").expect("a seat");
    let mut longest = 0;
    for _ in 0..200 {
        fixture.clock.advance(Duration::from_millis(50));
        longest = longest.max(fixture.now(0, "a").err().expect("no seat").1);
    }
    assert_eq!(longest, LONGEST_RETRY);
    let _ = fixture.clock.now();
}
