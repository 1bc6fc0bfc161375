import Disk
import Testing

struct MonitorTests {
  @Test func `updates wake those who wait for them`() throws {
    let monitor = Monitor(0)
    let waiting = try (1...3).map { number in
      try Background { monitor.wait { $0 >= number ? $0 : nil } }
    }
    for _ in 1...3 { monitor.update { $0 += 1 } }
    for (index, waiting) in waiting.enumerated() { #expect(try #require(waiting.value()) > index) }
  }

  /// The waiter has looked once, and so sleeps when the update comes: what it has read must not be what it goes by.
  @Test(arguments: [Duration?.none, .seconds(3600)])
  func `a waiter that has looked in vain sees the update that wakes it`(timeout: Duration?) throws {
    let monitor = Monitor(false)
    let hasLooked = Monitor(false)
    let look: @Sendable (inout Bool) -> Bool? = { state in
      hasLooked.update { $0 = true }
      return state ? true : nil
    }
    let waiting = try Background {
      timeout.map { monitor.wait(timeout: $0, until: look) ?? false } ?? monitor.wait(until: look)
    }
    hasLooked.wait { $0 ? () : nil }
    monitor.update { $0 = true }
    #expect(waiting.value() == true)
  }

  @Test func `a wait that is over at once needs no update`() {
    let monitor = Monitor("x")
    #expect(monitor.wait { $0 } == "x")
    #expect(monitor.wait(timeout: .zero) { $0 } == "x")
  }

  @Test func `whoever waits in a queue is woken by it, and by every update`() throws {
    let monitor = Monitor(0, queues: 3)
    let waiting = try (0..<3).map { queue in
      try Background { monitor.wait(in: queue) { $0 > queue ? queue : nil } }
    }
    monitor.withLock { $0 = 1 }
    monitor.wake(0)
    #expect(waiting[0].value() == 0)
    monitor.update { $0 = 3 }
    #expect(waiting[1].value() == 1)
    #expect(waiting[2].value() == 2)
  }

  @Test(arguments: [Duration.zero, .nanoseconds(1), .milliseconds(2)])
  func `a wait in vain ends with its time`(timeout: Duration) {
    let started = ContinuousClock.now
    #expect(Monitor(0).wait(timeout: timeout) { _ in Int?.none } == nil)
    #expect(ContinuousClock.now - started >= timeout)
  }

  @Test(arguments: [Duration.seconds(-1), .milliseconds(-999), .milliseconds(-1500), .nanoseconds(-1)])
  func `a wait whose time is over before it begins ends at once`(timeout: Duration) throws {
    let waiting = try Background { Monitor(0).wait(timeout: timeout) { _ in Int?.none } == nil }
    #expect(waiting.value(within: .seconds(5)) == true)
  }

  @Test func `a wait as long as can be is none that has passed`() throws {
    let monitor = Monitor(false)
    let waiting = try Background { monitor.wait(timeout: .seconds(Int64.max)) { $0 ? true : nil } }
    monitor.update { $0 = true }
    #expect(waiting.value() == true)
  }

  @Test func `many threads lose no update`() throws {
    let monitor = Monitor(0)
    let threads = try (0..<4).map { _ in
      try Background { for _ in 0..<5000 { monitor.update { $0 += 1 } } }
    }
    for thread in threads { #expect(thread.value() != nil) }
    #expect(monitor.withLock { $0 } == 20000)
  }

  @Test func `an error in the body leaves the monitor unlocked`() {
    let monitor = Monitor(1)
    struct Failure: Error {}
    #expect(throws: Failure.self) {
      try monitor.withLock { (_: inout Int) throws(Failure) in throw Failure() }
    }
    #expect(monitor.withLock { $0 } == 1)
  }

  @Test func `a switch that is thrown wakes a sleeper`() throws {
    let cancellation = Cancellation()
    let sleeping = try Background { cancellation.sleep(.seconds(3600)) }
    #expect(!cancellation.isCancelled)
    cancellation.cancel()
    #expect(sleeping.value() == true)
    #expect(cancellation.isCancelled)
    cancellation.cancel()
    #expect(cancellation.sleep(.seconds(3600)))
  }

  @Test func `an undisturbed sleep lasts as long as it should`() {
    let started = ContinuousClock.now
    #expect(!Cancellation().sleep(.milliseconds(3)))
    #expect(ContinuousClock.now - started >= .milliseconds(3))
  }

  @Test func `a joined thread has done its work`() throws {
    let done = Monitor(false)
    let thread = try #require(WorkerThread { done.update { $0 = true } })
    thread.join()
    thread.join()
    #expect(done.withLock { $0 })
  }
}
