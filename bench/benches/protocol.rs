//! Command parsing and content decoding, each beside the least that any program would do with the same bytes.

use std::hint::black_box;

use bench::{ENVELOPE, content_with_end};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringmx::protocol::command;
use ringmx::protocol::data::Decoder;
use ringmx::protocol::extension::Extensions;
use ringmx::protocol::line::{self, Framed};

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    let lines: Vec<Vec<u8>> = ENVELOPE.iter().map(|line| [line, &b"\r\n"[..]].concat()).collect();
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function("frame and parse", |b| {
        b.iter(|| {
            for line in &lines {
                let Framed::Line { line, .. } = line::next(black_box(line)) else { unreachable!() };
                let _ = black_box(command::parse(line, Extensions::DEFAULT));
            }
        });
    });
    group.bench_function("floor: memchr", |b| {
        b.iter(|| {
            for line in &lines {
                let _ = black_box(memchr::memchr(b'\n', black_box(line)));
            }
        });
    });
    group.finish();
}

fn data(c: &mut Criterion) {
    let mut group = c.benchmark_group("content");
    for len in [4 << 10, 1 << 20] {
        let input = content_with_end(len);
        let mut out: Vec<u8> = Vec::with_capacity(input.len());
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_with_input(BenchmarkId::new("decode", len), &input, |b, input| {
            b.iter(|| {
                out.clear();
                black_box(Decoder::new().decode(black_box(input), &mut out))
            });
        });
        group.bench_with_input(BenchmarkId::new("floor: memcpy", len), &input, |b, input| {
            b.iter(|| {
                out.clear();
                out.extend_from_slice(black_box(input));
                black_box(out.len())
            });
        });
        group.bench_with_input(BenchmarkId::new("floor: count LF", len), &input, |b, input| {
            b.iter(|| black_box(memchr::memchr_iter(b'\n', black_box(input)).count()));
        });
    }
    group.finish();
}

criterion_group!(benches, commands, data);
criterion_main!(benches);
