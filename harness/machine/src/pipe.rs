//! A pipe that doesn't wake its reader for each byte.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe::Receiver;

/// The reading end of a pipe that is written byte by byte, as QEMU does with a console.
///
/// A pipe that is watched wakes its watcher with each write, tens of thousands of times in a boot,
/// and the writer pays for it too. So this one is watched only while a read waits for something to
/// come: a reader that rests between two reads is left in peace.
#[derive(Debug)]
pub struct Pipe {
    end: OwnedFd,
    watched: Option<Receiver>,
}

impl Pipe {
    /// Takes the reading end of a pipe.
    ///
    /// # Errors
    /// It can't be made non-blocking.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&end, true)?;
        Ok(Self { end, watched: None })
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let watched = match &mut this.watched {
            Some(watched) => watched,
            None => {
                // What can't be read directly is tried once more, and told, by the receiver.
                if let Ok(length) = rustix::io::read(&this.end, buffer.initialize_unfilled()) {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                this.watched.insert(Receiver::from_owned_fd_unchecked(this.end.try_clone()?)?)
            }
        };
        let read = ready!(Pin::new(watched).poll_read(context, buffer));
        this.watched = None;
        Poll::Ready(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn it_gives_what_is_there_waits_for_more_and_tells_the_end() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut pipe = Pipe::new(read).unwrap();
        let mut buffer = [0; 8];
        rustix::io::write(&write, b"there").unwrap();
        assert_eq!(pipe.read(&mut buffer).await.unwrap(), 5);
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            rustix::io::write(&write, b"more").unwrap();
        });
        assert_eq!(pipe.read(&mut buffer).await.unwrap(), 4);
        assert_eq!(&buffer[..5], b"moree");
        assert!(pipe.watched.is_none());
        assert_eq!(pipe.read(&mut buffer).await.unwrap(), 0);
        later.join().unwrap();
    }

    #[tokio::test]
    async fn a_read_that_was_given_up_loses_nothing() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut pipe = Pipe::new(read).unwrap();
        let mut buffer = [0; 8];
        let limit = Duration::from_millis(5);
        assert!(tokio::time::timeout(limit, pipe.read(&mut buffer)).await.is_err());
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(pipe.read(&mut buffer).await.unwrap(), 1);
    }
}
