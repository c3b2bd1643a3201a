//! Which calls led to an instruction: shadow stacks of the kernel, and instructions by stack.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Kernel stacks are this large and so aligned.
const STACK: u64 = 16 << 10;
/// Bounds on what a guest can make the plugin keep.
const MAX_STACKS: usize = 1 << 16;
const MAX_NODES: usize = 1 << 20;
const MAX_COUNTS: usize = 1 << 22;
/// Deeper frames count for the one at this depth.
const MAX_DEPTH: usize = 128;
/// No block of instructions is longer: it spans two pages at most.
const MAX_BLOCK: u64 = 8 << 10;

/// User mode, in place of an address.
pub(crate) const USER: u64 = 0;
/// The node of an empty stack.
const ROOT: u32 = 0;

/// Addresses differ in their low bits enough for a multiplication.
#[derive(Debug, Default)]
pub(crate) struct Multiply(u64);

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A map by addresses.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Multiply>>;

/// The calls on one stack that have not returned.
#[derive(Debug, Default)]
struct Shadow {
    /// The stack that this one was switched to from, as the kernel does for interrupts.
    base: u32,
    /// Downwards.
    frames: Vec<Frame>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Where the return address lies.
    at: u64,
    /// The return address.
    to: u64,
    node: u32,
}

/// Follows calls and returns, and gives each executed instruction to the stack it ran on.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    shadows: Map<u64, Shadow>,
    /// The stack in use, by its number; none in user mode and before the first call after it.
    current: Option<u64>,
    /// The block that runs, the node it runs on, and the instructions executed before it.
    block: u64,
    node: u32,
    since: u64,
    /// The node of the next block: calls and returns are the last instructions of a block.
    next: u32,
    /// The stack of a return from an unknown place: the next block tells where to.
    lost: Option<u64>,
    tree: Tree,
    counts: Map<(u32, u64), u64>,
    counting: bool,
}

/// What [`Stacks::take`] answers: nodes that it has not named before, by parent and return address,
/// and the instructions by node and block.
pub(crate) type Taken = (Vec<(u32, u64)>, Vec<(u32, u64, u64)>);

impl Stacks {
    /// A call stored the return address `to` at `at`.
    pub(crate) fn call(&mut self, at: u64, to: u64) {
        // QEMU 7 also tells of accesses of later blocks as if they were the call's.
        if !(1..=MAX_BLOCK).contains(&to.wrapping_sub(self.block)) {
            return;
        }
        let number = at / STACK;
        let from = self.current.map_or(ROOT, |_| self.next);
        let switched = self.current.replace(number) != Some(number);
        if self.shadows.len() >= MAX_STACKS {
            self.shadows.clear();
        }
        let shadow = self.shadows.entry(number).or_default();
        // Stacks grow down: what is left at this address or below was abandoned.
        shadow.drop_to(at);
        if switched && shadow.frames.is_empty() {
            shadow.base = from;
        }
        let node = self.tree.child(shadow.top(), to);
        shadow.frames.push(Frame { at, to, node });
        self.next = node;
    }

    /// The return at the end of `block` loaded its address from `at`.
    pub(crate) fn ret(&mut self, at: u64, block: u64) {
        // As for calls.
        if block != self.block {
            return;
        }
        let number = at / STACK;
        self.current = Some(number);
        let shadow = self.shadows.entry(number).or_default();
        if shadow.drop_to(at) {
            self.next = shadow.top();
        } else {
            self.lost = Some(number);
        }
    }

    /// A return went to `block`, from a place where no call had stored: the return address was
    /// moved, as where the kernel is entered, or the stack was begun anew, as by a new task.
    fn find(&mut self, number: u64, block: u64) {
        let shadow = self.shadows.entry(number).or_default();
        match shadow.frames.iter().rposition(|frame| frame.to == block) {
            Some(index) => shadow.frames.truncate(index),
            None => *shadow = Shadow::default(),
        }
        self.next = shadow.top();
    }

    /// A block begins, after so many instructions in all.
    pub(crate) fn block(&mut self, block: u64, executed: u64) {
        self.settle(executed);
        if let Some(number) = self.lost.take() {
            self.find(number, block);
        }
        if block == USER {
            self.current = None;
            self.next = ROOT;
        }
        (self.block, self.node) = (block, self.next);
    }

    /// Instructions count from here on.
    pub(crate) fn start(&mut self, executed: u64) {
        self.settle(executed);
        self.counting = true;
    }

    /// Instructions count no more.
    pub(crate) fn stop(&mut self, executed: u64) {
        self.settle(executed);
        self.counting = false;
    }

    /// What was counted since the last time.
    pub(crate) fn take(&mut self) -> Taken {
        let counts = std::mem::take(&mut self.counts);
        let mut counts: Vec<_> =
            counts.into_iter().map(|((node, block), count)| (node, block, count)).collect();
        counts.sort_unstable();
        let mut nodes = Vec::new();
        for (node, _, _) in &mut counts {
            *node = self.tree.publish(*node, &mut nodes);
        }
        counts.sort_unstable();
        (nodes, counts)
    }

    fn settle(&mut self, executed: u64) {
        let count = executed.wrapping_sub(std::mem::replace(&mut self.since, executed));
        if self.counting && count > 0 {
            let full = self.counts.len() >= MAX_COUNTS;
            let key = (self.node, self.block);
            let key = if full && !self.counts.contains_key(&key) { (ROOT, USER) } else { key };
            *self.counts.entry(key).or_default() += count;
        }
    }
}

impl Shadow {
    fn top(&self) -> u32 {
        self.frames.last().map_or(self.base, |frame| frame.node)
    }

    /// Takes away the frames at `at` and below, and answers whether there was one at `at`.
    fn drop_to(&mut self, at: u64) -> bool {
        let mut found = false;
        while let Some(frame) = self.frames.pop_if(|frame| frame.at <= at) {
            found = frame.at == at;
        }
        found
    }
}

/// All stacks, as a tree of return addresses. The root is node 0, the others follow.
#[derive(Debug, Default)]
struct Tree {
    /// Parent, return address and depth, from node 1 on.
    nodes: Vec<(u32, u64, usize)>,
    children: Map<(u32, u64), u32>,
    /// The numbers of nodes in the output, which has only those that something was counted on.
    published: Map<u32, u32>,
}

impl Tree {
    /// The node of a call from `parent`, or `parent` itself at the bounds.
    fn child(&mut self, parent: u32, to: u64) -> u32 {
        if let Some(&node) = self.children.get(&(parent, to)) {
            return node;
        }
        let depth = self.get(parent).map_or(0, |(_, _, depth)| *depth) + 1;
        if depth > MAX_DEPTH || self.nodes.len() >= MAX_NODES {
            return parent;
        }
        self.nodes.push((parent, to, depth));
        let node = self.nodes.len() as u32;
        self.children.insert((parent, to), node);
        node
    }

    /// A node's number in the output. It and what is above it are added to `new` when they have
    /// none yet.
    fn publish(&mut self, node: u32, new: &mut Vec<(u32, u64)>) -> u32 {
        let mut path = vec![node];
        while let Some((parent, ..)) = path.last().and_then(|&node| self.get(node)) {
            path.push(*parent);
        }
        let mut number = ROOT;
        for node in path.into_iter().rev() {
            let Some(&(_, to, _)) = self.get(node) else { continue };
            let next = self.published.len() as u32 + 1;
            let parent = number;
            number = *self.published.entry(node).or_insert_with(|| {
                new.push((parent, to));
                next
            });
        }
        number
    }

    fn get(&self, node: u32) -> Option<&(u32, u64, usize)> {
        (node as usize).checked_sub(1).and_then(|index| self.nodes.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: u64 = 0xffff_c900_0001_0000;
    const OTHER: u64 = 0xffff_c900_0002_0000;
    const IRQ: u64 = 0xffff_c900_0003_1000;

    /// The return addresses of a node, outermost first.
    fn stack(stacks: &Stacks, mut node: u32) -> Vec<u64> {
        let mut addresses = Vec::new();
        while let Some((parent, to, _)) = stacks.tree.get(node) {
            addresses.insert(0, *to);
            node = *parent;
        }
        addresses
    }

    /// A block that calls at its end, and the block that is called.
    fn call(stacks: &mut Stacks, at: u64, to: u64) {
        stacks.block(to - 5, 0);
        stacks.call(at, to);
        stacks.block(0xf000, 0);
    }

    /// A block that returns at its end, and the block that it returns to.
    fn ret(stacks: &mut Stacks, at: u64, to: u64) {
        stacks.block(0xe000, 0);
        stacks.ret(at, 0xe000);
        stacks.block(to, 0);
    }

    #[test]
    fn instructions_count_for_the_stack_they_ran_on() {
        let mut stacks = Stacks::default();
        stacks.start(100);
        stacks.block(USER, 100);
        stacks.block(0xa0, 103);
        stacks.call(TASK + 0x3f00, 0xa9);
        stacks.block(0xb0, 110);
        stacks.call(TASK + 0x3e00, 0xb9);
        stacks.block(0xc0, 130);
        stacks.ret(TASK + 0x3e00, 0xc0);
        stacks.block(0xb9, 131);
        stacks.stop(140);
        stacks.block(USER, 150);
        let (nodes, counts) = stacks.take();
        assert_eq!(nodes, [(0, 0xa9), (1, 0xb9)]);
        let expected = [(0, 0, 3), (0, 0xa0, 7), (1, 0xb0, 20), (1, 0xb9, 9), (2, 0xc0, 1)];
        assert_eq!(counts, expected);
        assert_eq!(stacks.take(), (vec![], vec![]));
    }

    #[test]
    fn stacks_are_told_apart_and_found_again() {
        let mut stacks = Stacks::default();
        call(&mut stacks, TASK + 0x3f00, 0x100);
        call(&mut stacks, TASK + 0x3e00, 0x200);
        // Another task, which returns from where it had been switched away, and is unknown.
        ret(&mut stacks, OTHER + 0x3000, 0x700);
        assert_eq!(stack(&stacks, stacks.next), []);
        call(&mut stacks, OTHER + 0x3000, 0x700);
        assert_eq!(stack(&stacks, stacks.next), [0x700]);
        // Back again.
        ret(&mut stacks, TASK + 0x3e00, 0x200);
        assert_eq!(stack(&stacks, stacks.next), [0x100]);
        // Its return address was moved.
        ret(&mut stacks, TASK + 0x3e80, 0x100);
        assert_eq!(stack(&stacks, stacks.next), []);
        // Begun anew below what the task had left behind.
        call(&mut stacks, TASK + 0x3f00, 0x100);
        ret(&mut stacks, TASK + 0x3800, 0x900);
        assert_eq!(stack(&stacks, stacks.next), []);
    }

    #[test]
    fn what_is_not_of_the_block_is_not_believed() {
        let mut stacks = Stacks::default();
        call(&mut stacks, TASK + 0x3f00, 0x100);
        stacks.ret(TASK + 0x3f00, 0xe000);
        stacks.call(OTHER, 0x100);
        assert_eq!(stack(&stacks, stacks.next), [0x100]);
    }

    #[test]
    fn a_stack_that_is_switched_to_by_a_call_goes_on_from_the_one_before() {
        let mut stacks = Stacks::default();
        stacks.block(USER, 0);
        call(&mut stacks, TASK + 0x3f00, 0x100);
        call(&mut stacks, IRQ, 0x200);
        assert_eq!(stack(&stacks, stacks.next), [0x100, 0x200]);
        ret(&mut stacks, IRQ, 0x200);
        assert_eq!(stack(&stacks, stacks.next), [0x100]);
        ret(&mut stacks, TASK + 0x3f00, 0x100);
        assert_eq!(stack(&stacks, stacks.next), []);
        // From user mode there is nothing to go on from.
        stacks.block(USER, 0);
        call(&mut stacks, IRQ, 0x300);
        assert_eq!(stack(&stacks, stacks.next), [0x300]);
    }

    #[test]
    fn depth_is_bounded() {
        let mut stacks = Stacks::default();
        for deep in 0..300 {
            call(&mut stacks, TASK + 0x3ff8 - 8 * deep, 0x1000 + deep);
        }
        assert_eq!(stack(&stacks, stacks.next).len(), MAX_DEPTH);
    }
}
