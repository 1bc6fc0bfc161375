import BorgFormat
import Testing

@testable import Session

struct PipelineStateTests {
  private func bit(_ queue: Int) -> UInt64 { 1 << UInt64(queue) }

  @Test func `a request wakes its own worker, once`() {
    var state = PipelineState<String>(workers: 2)
    state.workerWaits = [true, true]
    state.senderWaits = true
    state.schedule.submit("a", lane: .keyed(1), weight: 0)
    #expect(state.takeWoken() == bit(PipelineQueue.worker(1)))
    #expect(state.takeWoken() == 0)
  }

  @Test func `the sender is woken for the answer whose turn it is`() throws {
    var state = PipelineState<String>(workers: 2)
    state.senderWaits = true
    state.schedule.submit("a", lane: .keyed(0), weight: 0)
    state.schedule.submit("b", lane: .keyed(1), weight: 0)
    let (second, first) = (state.schedule.take(for: 1), state.schedule.take(for: 0))
    state.schedule.finish(try #require(second), with: .bytes([2]))
    #expect(state.takeWoken() == 0)
    state.schedule.finish(try #require(first), with: .bytes([1]))
    #expect(state.takeWoken() == bit(PipelineQueue.sender))
  }

  @Test func `a record wakes the sender before any answer`() {
    var state = PipelineState<String>(workers: 1)
    state.senderWaits = true
    state.records = [[1]]
    #expect(state.takeWoken() == bit(PipelineQueue.sender))
  }

  @Test func `a reader that was held up goes on when half of the requests are gone`() throws {
    var state = PipelineState<Int>(workers: 1)
    for number in 0..<Limits.requestsInFlight { state.schedule.submit(number, lane: .keyed(0), weight: 0) }
    #expect(!state.isMet(.room(weight: 0, crowded: true)))
    #expect(state.isCrowded)
    state.readerWait = .room(weight: 0, crowded: true)
    for number in 0..<Limits.requestsInFlight {
      let job = state.schedule.take(for: 0)
      state.schedule.finish(try #require(job), with: .bytes([]))
      _ = state.schedule.takeAnswer()
      #expect((state.takeWoken() != 0) == (number + 1 >= Limits.requestsInFlight / 2))
    }
  }

  @Test func `a reader that was held up by bytes goes on as soon as there is room for them`() throws {
    var state = PipelineState<Int>(workers: 1)
    for number in 0..<200 { state.schedule.submit(number, lane: .keyed(0), weight: 100_000) }
    #expect(!state.isCrowded)
    let wait = PipelineState<Int>.ReaderWait.room(weight: 100_000, crowded: state.isCrowded)
    #expect(!state.isMet(wait))
    state.readerWait = wait
    // Their answers wait for the client, so that all of them stay in flight.
    var finished = 0
    while state.takeWoken() == 0 {
      let job = state.schedule.take(for: 0)
      state.schedule.finish(try #require(job), with: .bytes([]))
      finished += 1
    }
    #expect(state.schedule.inFlight == 200 && state.isMet(wait) && finished < 200)
  }

  @Test func `an interruption wakes the reader whatever it waits for`() {
    var state = PipelineState<Int>(workers: 1)
    state.schedule.submit(0, lane: .exclusive, weight: 0)
    state.readerWait = .noExclusive
    #expect(state.takeWoken() == 0)
    state.isInterrupted = true
    #expect(state.takeWoken() == bit(PipelineQueue.reader))
  }

  @Test func `the end of the input wakes workers and sender, and whoever waits for it`() {
    var state = PipelineState<Int>(workers: 2)
    (state.workerWaits, state.senderWaits, state.otherWaits) = ([true, true], true, 1)
    state.inputEnded = true
    let threads = [
      PipelineQueue.others, PipelineQueue.sender, PipelineQueue.worker(0), PipelineQueue.worker(1),
    ]
    #expect(state.takeWoken() == threads.map(bit).reduce(0, |))
  }

  @Test func `what a full client keeps a worker from is taken up when there is room`() throws {
    var state = PipelineState<Int>(workers: 2)
    state.schedule.submit(0, lane: .keyed(0), weight: 0)
    state.schedule.submit(1, lane: .keyed(1), weight: 0)
    state.workerWaits = [false, true]
    state.answerBytes = Limits.requestBytesInFlight
    #expect(state.takeWoken() == 0)
    #expect(state.hasWork(for: 0), "its answer is next")
    state.answerBytes = 0
    #expect(state.takeWoken() == bit(PipelineQueue.worker(1)))
  }

  @Test func `jobs that are given back keep their order`() throws {
    var schedule = RequestSchedule<Int, Int>(workers: 1)
    for number in 0..<4 { schedule.submit(number, lane: .keyed(0), weight: 0) }
    let jobs = (0..<3).compactMap { _ in schedule.take(for: 0) }
    schedule.giveBack(jobs[1...], 0)
    #expect((0..<3).map { _ in schedule.take(for: 0)?.request } == [1, 2, 3])
  }
}
