import Session
import Testing

struct IdleTimerTests {
  /// What a timer of ten seconds says, look by look: seconds since its start, bytes moved by then, work.
  private func looks(_ looks: [(second: Int, moved: UInt64, isWorking: Bool)]) -> [Bool] {
    let start = ContinuousClock.now
    var timer = IdleTimer(timeout: .seconds(10), at: start)
    return looks.map {
      timer.isOver(moved: $0.moved, isWorking: $0.isWorking, at: start + .seconds($0.second))
    }
  }

  @Test func `time is over when nothing has moved for all of it`() {
    #expect(looks([(9, 0, false), (10, 0, false)]) == [false, true])
  }

  @Test func `every byte begins it anew`() {
    #expect(looks([(11, 1, false), (20, 1, false), (21, 1, false)]) == [false, false, true])
  }

  @Test func `work is no idleness, however long it takes`() {
    #expect(
      looks([(60, 0, true), (6000, 0, true), (6009, 0, false), (6010, 0, false)]) == [
        false, false, false, true,
      ])
  }
}
