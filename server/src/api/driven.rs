//! A response stream written by straight code: it runs while HTTP/2 asks for messages and is dropped with the call, so
//! there is no task to look after.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;
use tonic::Status;

type Run = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// Where the code puts its messages; [`Out::send`] waits until the caller can take one more.
pub(super) struct Out<T>(mpsc::Sender<T>);

/// The stream.
pub(super) struct Driven<T> {
    run: Option<Run>,
    messages: mpsc::Receiver<T>,
    failed: Option<Status>,
}

/// Streams what `run` sends; an error of it is the end of the stream.
pub(super) fn driven<T, F>(run: impl FnOnce(Out<T>) -> F) -> Driven<T>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    // One message waits for HTTP/2, the next one waits for room.
    let (sender, messages) = mpsc::channel(1);
    Driven {
        run: Some(Box::pin(run(Out(sender)))),
        messages,
        failed: None,
    }
}

impl<T> Out<T> {
    pub(super) async fn send(&self, message: T) -> Result<(), Status> {
        self.0
            .send(message)
            .await
            .map_err(|_| Status::cancelled("the caller is gone"))
    }
}

impl<T: Send + 'static> Stream for Driven<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(run) = &mut self.run
            && let Poll::Ready(result) = run.as_mut().poll(cx)
        {
            self.failed = result.err();
            self.run = None;
        }
        match self.messages.poll_recv(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(message))),
            // The code may give `Out` away and go on: how it ends is still to come, and its waker is set.
            Poll::Ready(None) if self.run.is_some() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(self.failed.take().map(Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn the_end_is_waited_for_when_the_messages_have_ended_before_it() {
        let stream = driven(|out: Out<u8>| async move {
            drop(out);
            tokio::task::yield_now().await;
            Err(Status::aborted("end"))
        });
        let all: Vec<_> = stream.map(|item| item.map_err(|status| status.code())).collect().await;
        assert_eq!(all, [Err(tonic::Code::Aborted)]);
    }

    #[tokio::test]
    async fn what_is_sent_arrives_in_order_and_the_error_comes_last() {
        let stream = driven(|out| async move {
            for n in 0..3 {
                out.send(n).await?;
            }
            Err(Status::aborted("end"))
        });
        let all: Vec<_> = stream
            .map(|item| item.map_err(|status| status.message().to_owned()))
            .collect()
            .await;
        assert_eq!(all, [Ok(0), Ok(1), Ok(2), Err("end".into())]);
    }
}
