//! Messages that wait for a connection, and those of them that go out together with the one that gets it.
//!
//! While all connections of a hop are taken, messages stand in line. Who gets a connection takes the next ones along
//! in one group, where the hop offers PIPELINING and CHUNKING: RFC 2920 §3.1 lets the next transaction begin behind
//! the end of the content. So a hop that is behind costs one write for many messages, and an idle one waits for
//! nobody.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use super::Delivered;
use super::letter::Letter;
use crate::limits::{GROUPED_CONTENT_LEN_MAX, GROUPED_MESSAGES_COUNT_MAX, GROUPED_RECIPIENTS_COUNT_MAX};

/// A small message on its way to a hop.
pub(super) struct Waiting {
    pub letter: Rc<Letter>,
    pub content: Rc<[u8]>,
    state: RefCell<State>,
    /// Wakes it when it is not taken along any more.
    changed: Notify,
    /// How often it was taken along and came back without a word of the hop.
    returns_count: Cell<u32>,
}

enum State {
    InLine,
    Taken,
    Over(Delivered),
}

/// Those that have no connection and go with nobody, the first in front.
#[derive(Default)]
pub(super) struct Line(RefCell<VecDeque<Rc<Waiting>>>);

/// Those that are taken along. Whom nothing was told when it is dropped stands in line again.
pub(super) struct Group<'a> {
    line: &'a Line,
    messages: VecDeque<Rc<Waiting>>,
}

impl Waiting {
    pub(super) fn is_taken(&self) -> bool {
        matches!(*self.state.borrow(), State::Taken)
    }

    /// Until it was taken along and has an outcome, or came back without one: `None`.
    pub(super) async fn changed(&self) -> Option<Delivered> {
        self.changed.notified().await;
        let mut state = self.state.borrow_mut();
        if !matches!(*state, State::Over(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, State::InLine) {
            State::Over(delivered) => Some(delivered),
            State::InLine | State::Taken => None,
        }
    }

    pub(super) fn tell(&self, delivered: Delivered) {
        *self.state.borrow_mut() = State::Over(delivered);
        self.changed.notify_one();
    }
}

impl Line {
    pub(super) fn join(&self, letter: &Rc<Letter>, content: &Rc<[u8]>) -> Rc<Waiting> {
        let waiting = Rc::new(Waiting {
            letter: Rc::clone(letter),
            content: Rc::clone(content),
            state: RefCell::new(State::InLine),
            changed: Notify::new(),
            returns_count: Cell::new(0),
        });
        self.0.borrow_mut().push_back(Rc::clone(&waiting));
        waiting
    }

    pub(super) fn leave(&self, waiting: &Rc<Waiting>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, waiting));
    }

    /// As many of the first as may go with this message; `may_go` is asked once for each.
    pub(super) fn take(
        &self,
        letter: &Letter,
        content_len: u64,
        mut may_go: impl FnMut() -> bool,
    ) -> Group<'_> {
        let mut group = Group { line: self, messages: VecDeque::new() };
        let (mut content_len, mut recipients_count) = (content_len, letter.recipients.len());
        let mut line = self.0.borrow_mut();
        while let Some(first) = line.front()
            // Who came back often goes alone.
            && first.returns_count.get() < 2
            && group.messages.len() + 1 < GROUPED_MESSAGES_COUNT_MAX
        {
            content_len += first.content.len() as u64;
            recipients_count += first.letter.recipients.len();
            let is_too_much =
                content_len > GROUPED_CONTENT_LEN_MAX || recipients_count > GROUPED_RECIPIENTS_COUNT_MAX;
            if is_too_much || !may_go() {
                break;
            }
            *first.state.borrow_mut() = State::Taken;
            group.messages.extend(line.pop_front());
        }
        group
    }
}

impl Group<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Waiting>> {
        self.messages.iter()
    }

    /// The next one that nothing was told.
    pub(super) fn pop(&mut self) -> Option<Rc<Waiting>> {
        self.messages.pop_front()
    }

    /// Nothing was told it after all.
    pub(super) fn put_back(&mut self, waiting: Rc<Waiting>) {
        self.messages.push_front(waiting);
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        while let Some(last) = self.messages.pop_back() {
            last.returns_count.set(last.returns_count.get() + 1);
            *last.state.borrow_mut() = State::InLine;
            last.changed.notify_one();
            self.line.0.borrow_mut().push_front(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::Addressee;
    use super::*;

    fn letter(recipients_count: usize) -> Rc<Letter> {
        Rc::new(Letter { recipients: vec![Addressee::default(); recipients_count], ..Letter::default() })
    }

    fn line(lens: &[usize], recipients_count: usize) -> (Line, Vec<Rc<Waiting>>) {
        let line = Line::default();
        let waiting = lens.iter().map(|&len| line.join(&letter(recipients_count), &vec![b'x'; len].into()));
        let waiting = waiting.collect();
        (line, waiting)
    }

    #[test]
    fn a_group_has_its_bounds() {
        let most = usize::try_from(GROUPED_CONTENT_LEN_MAX).unwrap();
        for (lens, recipients_count, with, expected) in [
            (vec![1; 2 * GROUPED_MESSAGES_COUNT_MAX], 1, 1, GROUPED_MESSAGES_COUNT_MAX - 1),
            (vec![most / 4; 8], 1, most / 4, 3),
            (vec![most / 4, most, 1], 1, 1, 1),
            (vec![1; 8], GROUPED_RECIPIENTS_COUNT_MAX / 2, 1, 1),
            (vec![1], 1, most, 0),
            (vec![], 1, 1, 0),
        ] {
            let (line, waiting) = line(&lens, recipients_count);
            let group = line.take(&letter(recipients_count), with as u64, || true);
            assert_eq!(group.iter().count(), expected, "{lens:?}");
            assert!(waiting.iter().enumerate().all(|(index, one)| one.is_taken() == (index < expected)));
        }
    }

    #[test]
    fn who_was_told_nothing_stands_in_line_again() {
        let (line, waiting) = line(&[1, 1, 1, 1], 1);
        let mut group = line.take(&letter(1), 1, || true);
        let first = group.pop().unwrap();
        first.tell(Delivered { sent: Vec::new(), tls: None, next_hop: None, dsn: false, is_grouped: false });
        drop(group);
        assert!(Rc::ptr_eq(&first, &waiting[0]));
        let in_line: Vec<_> = line.0.borrow().iter().cloned().collect();
        assert!(in_line.iter().zip(&waiting[1..]).all(|(one, other)| Rc::ptr_eq(one, other)));
        assert_eq!(in_line.len(), 3);
        assert!(waiting.iter().all(|one| !one.is_taken()));
    }

    #[test]
    fn who_came_back_twice_goes_alone() {
        let (line, waiting) = line(&[1, 1], 1);
        for expected in [2, 2, 0] {
            assert_eq!(line.take(&letter(1), 1, || true).iter().count(), expected);
        }
        line.leave(&waiting[0]);
        assert_eq!(line.0.borrow().len(), 1);
    }
}
