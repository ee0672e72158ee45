//! An established stream: its bytes, its frames, its time limits and its end, in one loop for all that the edge
//! keeps open. A [`Driver`] decides what an element means and what is written.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use xmpp_federation_xml::{Element, Frame, StreamHeader, ns};

use super::{CLOSE_TIME, Failure, Wire};

/// After so many turns at the socket in a row, everything else comes first once.
const TURNS: u32 = 16;

/// What one kind of stream does with what happens to it.
pub(crate) trait Driver: Send {
    /// What the frames that are taken at once share.
    type Taking;
    /// What happens besides the socket and the time.
    type Event: Send;

    fn wire(&mut self) -> &mut Wire;

    /// Before each wait: writes what waits. Gives when [`Self::timed_out`] is to be called.
    fn before_wait(&mut self) -> impl Future<Output = Result<Instant, Failure>> + Send;

    /// [`Wire::turn`], and what else may happen. Both are dropped when one of them is ready, and asked for anew.
    fn wait(&mut self) -> (impl TaskFuture<Result<bool, Failure>>, impl TaskFuture<Self::Event>);

    /// Something was read; see [`Self::take_all`].
    fn received(&mut self) -> Result<(), Failure>;

    fn happened(&mut self, event: Self::Event) -> impl Future<Output = Result<(), Failure>> + Send;

    fn timed_out(&mut self) -> Result<(), Failure>;

    /// Whether the next frame may be taken, or stays where it is.
    fn may_take(&self) -> bool {
        true
    }

    /// A header that comes after the negotiation.
    fn take_header(&mut self, _: &mut Self::Taking, _: &StreamHeader) -> Result<(), Failure> {
        Ok(())
    }

    fn take_element(&mut self, taking: &mut Self::Taking, element: &Element) -> Result<(), Failure>;

    /// Takes the frames that were read completely. A stream error and the stream's end are failures.
    fn take_all(&mut self, taking: &mut Self::Taking) -> Result<(), Failure> {
        while self.may_take() {
            match self.wire().take_frame()? {
                None => break,
                Some(Frame::End) => return Err(Failure::Closed),
                Some(Frame::Header(header)) => self.take_header(taking, &header)?,
                Some(Frame::Element(element)) if element.is(ns::STREAMS, "error") => {
                    return Err(self.wire().peer_error(&element));
                }
                Some(Frame::Element(element)) => self.take_element(taking, &element)?,
            }
        }
        Ok(())
    }
}

/// A future that a task can hold: short for [`Driver::wait`].
pub(crate) trait TaskFuture<T>: Future<Output = T> + Send {}

impl<T, F: Future<Output = T> + Send> TaskFuture<T> for F {}

/// What a wait brought.
enum Happened<E> {
    Turn(Result<bool, Failure>),
    Event(E),
    Time,
}

/// Drives a stream until it fails or ends.
pub(crate) async fn drive(driver: &mut impl Driver) -> Failure {
    let mut timer = pin!(sleep(Duration::MAX));
    let mut turns = 0;
    // What came right behind the negotiation is in the framer already.
    let mut step = driver.received();
    loop {
        if let Err(failure) = step {
            return failure;
        }
        step = next(driver, timer.as_mut(), &mut turns).await;
    }
}

async fn next<D: Driver>(driver: &mut D, mut timer: Pin<&mut Sleep>, turns: &mut u32) -> Result<(), Failure> {
    let deadline = driver.before_wait().await?;
    // It may wake early: the deadline moves with every turn, and moving a timer costs.
    if timer.is_elapsed() || deadline < timer.deadline() {
        timer.as_mut().reset(deadline);
    }
    let happened = {
        let (turn, event) = driver.wait();
        let (mut turn, mut event) = (pin!(turn), pin!(event));
        let mut others = |cx: &mut Context<'_>| match event.as_mut().poll(cx) {
            Poll::Ready(event) => Poll::Ready(Happened::Event(event)),
            Poll::Pending => timer.as_mut().poll(cx).map(|()| Happened::Time),
        };
        std::future::poll_fn(|cx| {
            // A turn mostly brings something; to register for all else each time would cost more than the turn.
            if *turns == TURNS {
                *turns = 0;
                if let Poll::Ready(happened) = others(cx) {
                    return Poll::Ready(happened);
                }
            }
            if let Poll::Ready(turn) = turn.as_mut().poll(cx) {
                *turns += 1;
                return Poll::Ready(Happened::Turn(turn));
            }
            *turns = 0;
            others(cx)
        })
        .await
    };
    match happened {
        Happened::Turn(read) => {
            if read? {
                driver.received()?;
            }
            Ok(())
        }
        Happened::Event(event) => driver.happened(event).await,
        Happened::Time if Instant::now() >= deadline => driver.timed_out(),
        Happened::Time => Ok(()),
    }
}

/// How long the peer may take to close its side after ours was closed (RFC 6120 section 4.4).
#[derive(Debug, Clone, Copy)]
pub struct Closing {
    /// Until then if the peer shows no sign of life.
    silent: Instant,
    /// Until then in any case.
    end: Instant,
}

impl Closing {
    pub(super) fn begin(most: Duration) -> Self {
        let now = Instant::now();
        Self {
            silent: now + CLOSE_TIME.min(most),
            end: now + most,
        }
    }

    /// The peer shows a sign of life: it gets so much more time.
    pub fn extend(&mut self, time: Duration) {
        self.silent = Instant::now() + time;
    }

    /// When the stream is cut.
    pub fn deadline(&self) -> Instant {
        self.silent.min(self.end)
    }

    /// The same for a peer that cannot show a sign of life.
    pub fn end(&self) -> Instant {
        self.end
    }
}
