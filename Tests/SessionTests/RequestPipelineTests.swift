import TestKit
import BorgFormat
import Disk
import Glibc
import Storage
import Testing

@testable import Session

/// Requests that carry their own lane, weight and work.
private struct Work: Sendable {
  var number: Int
  var lane = Lane.keyed(0)
  var weight = 0
  var answer: @Sendable (Int) -> Answer = { .bytes(framed($0, [])) }
}

private struct Worker: RequestHandler {
  func lane(of request: Work) -> Lane { request.lane }
  func weight(of request: Work) -> Int { request.weight }
  func answer(_ request: Work) -> Answer { request.answer(request.number) }
}

/// A message as the tests' clients read it: number, length, content. Records have negative numbers.
private func framed(_ number: Int, _ content: [UInt8]) -> [UInt8] {
  header(number, content.count) + content
}

private func header(_ number: Int, _ count: Int) -> [UInt8] {
  [number, count].flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
}

/// A pipeline over a channel, and its client.
private final class Bench: Sendable {
  let channel: Channel
  let pipeline: RequestPipeline<Worker>
  let breaks = Monitor(0)
  private let input: ByteInput

  init(workers: Int = 2, _ kind: Channel.Kind = .pipe) throws {
    signal(SIGPIPE, SIG_IGN)
    channel = try Channel(kind)
    input = try ByteInput(channel.reader)
    let breaks = breaks
    pipeline = RequestPipeline(handler: Worker(), output: ByteOutput(channel.writer), workers: workers) { _ in
      breaks.update { $0 += 1 }
    }
    try #require(pipeline.start(workers: workers))
  }

  @discardableResult
  func submit(_ work: Work) -> Bool { pipeline.submit([work]) == 1 }

  private struct Received {
    var bytes: [UInt8] = []
    var start = 0
  }

  private let received = Monitor(Received())

  /// Reads so many messages; fewer if the output ends.
  func messages(_ count: Int) -> [(number: Int, content: [UInt8])] {
    var messages: [(number: Int, content: [UInt8])] = []
    while messages.count < count, let message = message() { messages.append(message) }
    return messages
  }

  /// Reads the next message, in pieces of at most `piece` bytes; nil if the output ends.
  func message(piece: Int = 65536) -> (number: Int, content: [UInt8])? {
    while true {
      let message: (Int, [UInt8])? = received.withLock { received in
        let (bytes, start) = (received.bytes, received.start)
        guard bytes.count - start >= 16 else { return nil }
        let words = [0, 8].map { offset in
          (0..<8).reduce(0) { $0 | Int(bytes[start + offset + $1]) << ($1 * 8) }
        }
        guard bytes.count - start >= 16 + words[1] else { return nil }
        received.start += 16 + words[1]
        return (words[0], Array(bytes[start + 16..<start + 16 + words[1]]))
      }
      if let message { return message }
      guard case .bytes(let more)? = try? input.read(behind: [], capacity: piece) else { return nil }
      received.withLock { received in
        received.bytes.removeFirst(received.start)
        received.start = 0
        received.bytes += more
      }
    }
  }
}

private struct FakeObject: StoredObject {
  let size: Int
  let available: Int

  func read(at offset: Int, into buffer: inout [UInt8]) -> Int {
    let count = max(0, min(buffer.count, available - offset))
    for index in 0..<count { buffer[index] = UInt8(truncatingIfNeeded: offset + index) }
    return count
  }
}

struct RequestPipelineTests {
  @Test(arguments: UInt64(0)..<12)
  func `under any load all answers come, in order, and nothing locks up`(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let bench = try Bench(workers: Int(seed % 4) + 1, seed % 2 == 0 ? .pipe : .socket)
    let count = 400
    let load = (0..<count).map { number in
      let size = [0, 10, 5000, 130_000, 700_000][Int.random(in: 0..<5, using: &random) * min(1, number % 3)]
      let streams = Int.random(in: 0..<6, using: &random) == 0
      let posts = Int.random(in: 0..<4, using: &random) == 0
      let isExclusive = Int.random(in: 0..<10, using: &random) == 0
      return Work(
        number: number, lane: isExclusive ? .exclusive : .keyed(random.next()),
        weight: [0, 100, 200_000, 9_000_000][Int.random(in: 0..<4, using: &random)]
      ) { [pipeline = bench.pipeline] number in
        if posts { pipeline.post(framed(-number - 1, [UInt8](repeating: 1, count: size))) }
        if streams {
          return .stream(
            head: header(number, size), object: FakeObject(size: size, available: size), count: size)
        }
        return .bytes(framed(number, [UInt8](repeating: 0, count: size)))
      }
    }
    let piece = [500, 4096, 1 << 20][Int(seed % 3)]
    let reading = try Background {
      var numbers: [Int] = []
      while numbers.count < count, let message = bench.message(piece: piece) {
        if message.number >= 0 { numbers.append(message.number) }
      }
      return numbers
    }
    let feeding = try Background {
      for work in load { bench.submit(work) }
      bench.pipeline.endInput()
      bench.pipeline.drain(patience: deadline)
    }
    #expect(reading.value() == Array(0..<count))
    #expect(feeding.value() != nil)
    #expect(bench.breaks.withLock { $0 } == 0)
  }

  @Test(arguments: UInt64(0)..<8)
  func `requests with one key run one after the other, exclusive ones alone`(seed: UInt64) throws {
    struct Running {
      var keys: Set<UInt64> = []
      var isAlone = false
      var last: [UInt64: Int] = [:]
      var violations = 0
    }
    var random = SeededGenerator(seed: seed)
    let bench = try Bench(workers: 3)
    let running = Monitor(Running())
    let count = 1000
    let load = (0..<count).map { number in
      let key = UInt64.random(in: 0..<7, using: &random)
      let isExclusive = Int.random(in: 0..<20, using: &random) == 0
      return Work(number: number, lane: isExclusive ? .exclusive : .keyed(key)) { number in
        running.update { state in
          if state.isAlone || isExclusive && !state.keys.isEmpty { state.violations += 1 }
          if isExclusive {
            state.isAlone = true
          } else {
            if !state.keys.insert(key).inserted || state.last[key, default: -1] > number {
              state.violations += 1
            }
            state.last[key] = number
          }
        }
        sched_yield()
        running.update { state in
          if isExclusive { state.isAlone = false } else { state.keys.remove(key) }
        }
        return .bytes(framed(number, []))
      }
    }
    let reading = try Background { bench.messages(count).map(\.number) }
    let feeding = try Background { for work in load { bench.submit(work) } }
    #expect(reading.value() == Array(0..<count))
    #expect(feeding.value() != nil)
    #expect(running.withLock { $0.violations } == 0)
    try end(bench)
  }

  private func end(_ bench: Bench) throws {
    let ending = try Background {
      bench.pipeline.endInput()
      bench.pipeline.drain(patience: deadline)
    }
    #expect(ending.value() != nil)
  }

  // MARK: Bounds

  @Test func `a client that does not read costs a bounded amount of memory`() throws {
    let bench = try Bench()
    let size = 100_000
    let produced = Monitor(0)
    let feeding = try Background {
      for number in 0..<2000 {
        bench.submit(
          Work(number: number, lane: .keyed(UInt64(number))) { number in
            produced.update { $0 += size }
            return .bytes(framed(number, [UInt8](repeating: 0, count: size)))
          })
      }
    }
    // Each of two workers may be in the middle of what it took before the bound was reached: half a MiB and one.
    let bound = Limits.requestBytesInFlight + 2 * (512 * 1024 + size) + 1 << 20
    #expect(produced.wait(timeout: deadline) { $0 >= Limits.requestBytesInFlight ? true : nil } == true)
    #expect(feeding.value(within: .milliseconds(50)) == nil)
    #expect(produced.withLock { $0 } <= bound)
    let reading = try Background { bench.messages(2000).map(\.number) }
    #expect(reading.value() == Array(0..<2000))
    #expect(feeding.value() != nil)
    try end(bench)
  }

  @Test func `small requests are bounded by their number`() throws {
    let bench = try Bench()
    let submitted = Monitor(0)
    // The first holds up the rest until it may go on.
    let gate = Monitor(false)
    let feeding = try Background {
      for number in 0..<1000 {
        bench.submit(
          Work(number: number, lane: .keyed(0)) { number in
            gate.wait { $0 ? () : nil }
            return .bytes(framed(number, []))
          })
        submitted.update { $0 += 1 }
      }
    }
    #expect(submitted.wait(timeout: deadline) { $0 == Limits.requestsInFlight ? true : nil } == true)
    #expect(submitted.wait(timeout: .milliseconds(20)) { $0 > Limits.requestsInFlight ? true : nil } == nil)
    #expect(bench.pipeline.readerIsBlocked)
    gate.update { $0 = true }
    let reading = try Background { bench.messages(1000).map(\.number) }
    #expect(reading.value() == Array(0..<1000))
    #expect(feeding.value() != nil)
    #expect(!bench.pipeline.readerIsBlocked)
    try end(bench)
  }

  @Test func `a request beyond the bound is taken when nothing else is there`() throws {
    let bench = try Bench()
    let feeding = try Background {
      for number in 0..<3 {
        bench.submit(Work(number: number, weight: Limits.requestBytesInFlight * 2))
      }
    }
    #expect(feeding.value() != nil)
    #expect(bench.messages(3).map(\.number) == [0, 1, 2])
    try end(bench)
  }

  @Test func `waiting for exclusive requests waits for no others`() throws {
    let bench = try Bench()
    let (alone, other) = (Monitor(false), Monitor(false))
    #expect(bench.pipeline.waitForExclusive())
    bench.submit(
      Work(number: 0, lane: .exclusive) { number in
        alone.wait { $0 ? () : nil }
        return .bytes(framed(number, []))
      })
    bench.submit(
      Work(number: 1) { number in
        other.wait { $0 ? () : nil }
        return .bytes(framed(number, []))
      })
    let waiting = try Background { bench.pipeline.waitForExclusive() }
    #expect(waiting.value(within: .milliseconds(20)) == nil)
    alone.update { $0 = true }
    #expect(waiting.value() == true)
    other.update { $0 = true }
    #expect(bench.messages(2).map(\.number) == [0, 1])
    try end(bench)
  }

  // MARK: Records

  @Test func `records arrive while the request runs, and before its answer`() throws {
    let bench = try Bench()
    let gate = Monitor(false)
    bench.submit(
      Work(number: 0, lane: .exclusive) { [pipeline = bench.pipeline] number in
        pipeline.post(framed(-1, [1]))
        pipeline.post(framed(-2, [2]))
        gate.wait { $0 ? () : nil }
        pipeline.post(framed(-3, [3]))
        return .bytes(framed(number, []))
      })
    #expect(bench.messages(2).map(\.number) == [-1, -2])
    gate.update { $0 = true }
    #expect(bench.messages(2).map(\.number) == [-3, 0])
    try end(bench)
  }

  @Test func `a client that does not read holds up whoever posts, but not for ever`() throws {
    let bench = try Bench()
    let posted = Monitor(0)
    let size = 1 << 20
    bench.submit(
      Work(number: 0, lane: .exclusive) { [pipeline = bench.pipeline] number in
        for _ in 0..<40 {
          pipeline.post(framed(-1, [UInt8](repeating: 0, count: size)))
          posted.update { $0 += 1 }
        }
        return .bytes(framed(number, []))
      })
    #expect(posted.wait(timeout: deadline) { $0 >= Limits.requestBytesInFlight / size ? true : nil } == true)
    // One parcel may be on its way to the client already.
    #expect(
      posted.wait(timeout: .milliseconds(20)) {
        $0 > 2 * (Limits.requestBytesInFlight / size + 1) ? true : nil
      }
        == nil)
    let ending = try Background { bench.pipeline.endInput() }
    #expect(ending.value() != nil)
    #expect(posted.withLock { $0 } == 40)
    bench.channel.closeReader()
    try end(bench)
  }

  // MARK: Streams

  @Test func `a stream's head promises as many bytes as follow`() throws {
    let bench = try Bench()
    for (number, count) in [0, 1, 131_072, 1_000_000].enumerated() {
      bench.submit(
        Work(number: number) { number in
          .stream(
            head: header(number, count), object: FakeObject(size: 2_000_000, available: 2_000_000),
            count: count)
        })
    }
    let reading = try Background { bench.messages(4) }
    let messages = try #require(reading.value())
    #expect(messages.map(\.content.count) == [0, 1, 131_072, 1_000_000])
    #expect(messages[3].content[999_999] == UInt8(truncatingIfNeeded: 999_999))
    try end(bench)
  }

  @Test func `an object that ends early ends the connection, since its bytes were promised`() throws {
    let bench = try Bench()
    bench.submit(
      Work(number: 0) { number in
        .stream(head: header(number, 1000), object: FakeObject(size: 1000, available: 999), count: 1000)
      })
    bench.submit(Work(number: 1))
    #expect(bench.breaks.wait(timeout: deadline) { $0 == 1 ? true : nil } == true)
    #expect(bench.pipeline.outputIsBroken)
    try end(bench)
    bench.channel.closeWriter()
    // Nothing may follow the gap.
    #expect(bench.messages(2).isEmpty)
  }

  // MARK: Ends

  @Test func `a client that is gone is noticed once, and all its requests are still finished`() throws {
    let bench = try Bench()
    bench.channel.closeReader()
    let done = Monitor(0)
    let feeding = try Background {
      for number in 0..<1000 {
        bench.submit(
          Work(number: number, lane: .keyed(UInt64(number)), weight: 1 << 16) {
            [pipeline = bench.pipeline] number in
            pipeline.post(framed(-1, [UInt8](repeating: 0, count: 1 << 16)))
            done.update { $0 += 1 }
            return .bytes(framed(number, [UInt8](repeating: 0, count: 1 << 16)))
          })
      }
    }
    #expect(feeding.value() != nil)
    try end(bench)
    #expect(done.withLock { $0 } == 1000)
    #expect(bench.breaks.withLock { $0 } == 1)
    #expect(bench.pipeline.outputIsBroken)
  }

  @Test func `a client that does not read is left after the patience, its requests finished`() throws {
    let bench = try Bench()
    let done = Monitor(0)
    for number in 0..<200 {
      bench.submit(
        Work(number: number) { number in
          done.update { $0 += 1 }
          return .bytes(framed(number, [UInt8](repeating: 0, count: 10_000)))
        })
    }
    let ending = try Background {
      bench.pipeline.interrupt()
      bench.pipeline.endInput()
      let finished = done.withLock { $0 }
      bench.pipeline.drain(patience: .milliseconds(10))
      return finished
    }
    #expect(ending.value() == 200)
    bench.channel.closeReader()
    try end(bench)
  }

  @Test func `an interruption wakes the reader, and lets in only what there is room for`() throws {
    let bench = try Bench()
    let gate = Monitor(false)
    let work = Work(number: 0) { number in
      gate.wait { $0 ? () : nil }
      return .bytes(framed(number, []))
    }
    let submitting = try Background {
      var taken = 0
      while bench.submit(work) { taken += 1 }
      return taken
    }
    #expect(submitting.value(within: .milliseconds(20)) == nil)
    bench.pipeline.interrupt()
    #expect(submitting.value() == Limits.requestsInFlight)
    #expect(!bench.submit(work))
    #expect(bench.pipeline.waitForExclusive())
    #expect(!bench.pipeline.readerIsBlocked)
    gate.update { $0 = true }
    #expect(bench.messages(Limits.requestsInFlight).count == Limits.requestsInFlight)
    try end(bench)
  }

  @Test func `an interruption wakes a reader that waits for an exclusive request`() throws {
    let bench = try Bench()
    let gate = Monitor(false)
    bench.submit(
      Work(number: 0, lane: .exclusive) { number in
        gate.wait { $0 ? () : nil }
        return .bytes(framed(number, []))
      })
    let waiting = try Background { bench.pipeline.waitForExclusive() }
    bench.pipeline.interrupt()
    #expect(waiting.value() == false)
    gate.update { $0 = true }
    try end(bench)
  }

  @Test func `an interruption ends the draining of a client that does not read`() throws {
    let bench = try Bench()
    for number in 0..<50 {
      bench.submit(Work(number: number) { .bytes(framed($0, [UInt8](repeating: 0, count: 10_000))) })
    }
    bench.pipeline.endInput()
    let draining = try Background { bench.pipeline.drain(patience: .milliseconds(5)) }
    #expect(draining.value(within: .milliseconds(50)) == nil)
    bench.pipeline.interrupt()
    #expect(draining.value() != nil)
    bench.channel.closeReader()
    try end(bench)
  }

  @Test func `draining waits for a slow client`() throws {
    let bench = try Bench()
    for number in 0..<50 {
      bench.submit(Work(number: number) { .bytes(framed($0, [UInt8](repeating: 0, count: 10_000))) })
    }
    bench.pipeline.endInput()
    let draining = try Background { bench.pipeline.drain(patience: .zero) }
    #expect(draining.value(within: .milliseconds(20)) == nil)
    #expect(bench.messages(50).map(\.number) == Array(0..<50))
    #expect(draining.value() != nil)
  }

  @Test func `a pipeline that nothing came to ends at once`() throws {
    try end(Bench())
  }
}
