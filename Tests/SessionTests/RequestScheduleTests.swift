import TestKit
import Testing

@testable import Session

/// A schedule, and beside it the plainest statement of what it has to do.
private struct Model {
  private var schedule: RequestSchedule<Int, Int>
  private var random: SeededGenerator
  /// What came, by number.
  private var lanes: [Lane] = []
  private var finished: [Bool] = []
  /// What each worker has taken and not finished, in order.
  private var taken: [[RequestSchedule<Int, Int>.Job]]
  private(set) var answered = 0

  init(workers: Int, seed: UInt64) {
    schedule = RequestSchedule(workers: workers)
    taken = Array(repeating: [], count: workers)
    random = SeededGenerator(seed: seed)
  }

  var submitted: Int { lanes.count }

  private static func weight(of number: Int) -> Int { number % 7 * 10 }

  mutating func step() throws {
    switch Int.random(in: 0..<8, using: &random) {
    case 0...2: submit()
    case 3, 4: take(worker: Int.random(in: taken.indices, using: &random))
    case 5, 6: finish(worker: Int.random(in: taken.indices, using: &random))
    default: takeAnswer()
    }
    try check()
  }

  mutating func submit() {
    let lane: Lane =
      Int.random(in: 0..<6, using: &random) == 0
      ? .exclusive : .keyed(UInt64.random(in: 0..<5, using: &random))
    let number = lanes.count
    lanes.append(lane)
    finished.append(false)
    schedule.submit(number, lane: lane, weight: Self.weight(of: number))
  }

  mutating func take(worker: Int) {
    let next = schedule.next(for: worker)
    let job = schedule.take(for: worker)
    #expect(next?.number == job?.number)
    guard let job else { return }
    #expect(job.number == job.request && job.lane == lanes[job.number])
    let earlier = 0..<job.number
    let active = taken.joined().map(\.number)
    if job.lane == .exclusive {
      #expect(earlier.allSatisfy { finished[$0] }, "an exclusive request runs beside an earlier one")
      #expect(active.isEmpty)
    } else {
      #expect(
        earlier.allSatisfy { finished[$0] || lanes[$0] != .exclusive }, "a request overtakes an exclusive one"
      )
      #expect(!active.contains { lanes[$0] == .exclusive })
      // The same worker does them one by one, so an earlier one must be its own.
      let unfinished = earlier.filter { lanes[$0] == job.lane && !finished[$0] }
      #expect(
        unfinished.allSatisfy(taken[worker].map(\.number).contains), "requests with one key run side by side")
    }
    taken[worker].append(job)
  }

  mutating func finish(worker: Int) {
    guard !taken[worker].isEmpty else { return }
    let job = taken[worker].removeFirst()
    #expect(!finished[job.number])
    finished[job.number] = true
    schedule.finish(job, with: -job.number)
  }

  mutating func takeAnswer() {
    let answer = schedule.takeAnswer()
    guard answered < submitted, finished[answered] else {
      #expect(answer == nil)
      return
    }
    #expect(answer == -answered)
    answered += 1
  }

  private func check() throws {
    let open = finished.indices.filter { !finished[$0] }
    #expect(schedule.head == answered)
    #expect(schedule.inFlight == submitted - answered)
    #expect(schedule.isIdle == open.isEmpty)
    #expect(schedule.exclusiveCount == open.filter { lanes[$0] == .exclusive }.count)
    #expect(schedule.requestBytes == open.reduce(0) { $0 + Self.weight(of: $1) })
    // The oldest request never waits for anybody but its worker.
    guard let oldest = open.first else { return }
    let isTaken = taken.joined().contains { $0.number == oldest }
    try #require(isTaken || taken.indices.contains { schedule.next(for: $0)?.number == oldest })
  }

  /// Takes, finishes and answers until nothing is left.
  mutating func drain() throws {
    for _ in 0...submitted {
      for worker in taken.indices {
        take(worker: worker)
        finish(worker: worker)
      }
      while answered < submitted, finished[answered] { takeAnswer() }
      try check()
    }
  }
}

struct RequestScheduleTests {
  @Test(arguments: UInt64(0)..<60)
  func `answers keep the order, keys keep theirs, exclusive requests run alone, and none starves`(
    seed: UInt64
  )
    throws
  {
    var model = Model(workers: Int(seed % 3) + 1, seed: seed)
    for _ in 0..<300 { try model.step() }
    try model.drain()
    #expect(model.answered == model.submitted)
  }

  @Test func `requests for different workers run side by side`() {
    var schedule = RequestSchedule<String, Int>(workers: 2)
    schedule.submit("a", lane: .keyed(0), weight: 1)
    schedule.submit("b", lane: .keyed(1), weight: 2)
    schedule.submit("c", lane: .keyed(2), weight: 4)
    let jobs = [schedule.take(for: 0), schedule.take(for: 1), schedule.take(for: 0)]
    #expect(jobs.map { $0?.request } == ["a", "b", "c"])
    #expect(schedule.requestBytes == 7)
  }

  @Test func `what stands behind an exclusive request waits for it`() throws {
    var schedule = RequestSchedule<String, Int>(workers: 2)
    schedule.submit("a", lane: .keyed(1), weight: 0)
    schedule.submit("alone", lane: .exclusive, weight: 0)
    schedule.submit("b", lane: .keyed(1), weight: 0)
    let taken = schedule.take(for: 1)
    let first = try #require(taken)
    #expect(schedule.next(for: 0) == nil && schedule.next(for: 1) == nil)
    schedule.finish(first, with: 1)
    let alone = schedule.take(for: 0)
    let second = try #require(alone)
    #expect(second.request == "alone")
    #expect(schedule.exclusiveCount == 1)
    #expect(schedule.next(for: 1) == nil)
    schedule.finish(second, with: 2)
    #expect(schedule.exclusiveCount == 0)
    #expect(schedule.next(for: 1)?.request == "b")
  }

  @Test func `an answer that is there early waits for its turn`() throws {
    var schedule = RequestSchedule<String, Int>(workers: 2)
    schedule.submit("a", lane: .keyed(0), weight: 0)
    schedule.submit("b", lane: .keyed(1), weight: 0)
    let taken = (schedule.take(for: 0), schedule.take(for: 1))
    let (a, b) = (try #require(taken.0), try #require(taken.1))
    schedule.finish(b, with: 2)
    let early = schedule.takeAnswer()
    #expect(early == nil)
    schedule.finish(a, with: 1)
    let answers = [schedule.takeAnswer(), schedule.takeAnswer(), schedule.takeAnswer()]
    #expect(answers == [1, 2, nil])
    #expect(schedule.isIdle && schedule.inFlight == 0)
  }
}
