import Glibc

/// State behind a lock, with conditions that threads wait for: what `Mutex` lacks.
///
/// A monitor has one queue of waiting threads or several, so that a change can wake only those whom it concerns.
///
/// `@unchecked Sendable`: `state` is only touched while `mutex` is held. Unsafe code stands here because
/// POSIX threads' objects need a fixed address.
@safe public final class Monitor<State>: @unchecked Sendable {
  private var state: State
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  /// One for each queue.
  private let conditions: UnsafeMutableBufferPointer<pthread_cond_t>

  public init(_ state: State, queues: Int = 1) {
    self.state = state
    unsafe mutex = .allocate(capacity: 1)
    unsafe mutex.initialize(to: pthread_mutex_t())
    unsafe _ = pthread_mutex_init(mutex, nil)
    unsafe conditions = .allocate(capacity: max(queues, 1))
    unsafe conditions.initialize(repeating: pthread_cond_t())
    var attributes = pthread_condattr_t()
    unsafe _ = pthread_condattr_init(&attributes)
    // Waits must not end early or late when somebody sets the wall clock.
    unsafe _ = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    for queue in unsafe conditions.indices { unsafe _ = pthread_cond_init(condition(queue), &attributes) }
    unsafe _ = pthread_condattr_destroy(&attributes)
  }

  deinit {
    for queue in unsafe conditions.indices { unsafe _ = pthread_cond_destroy(condition(queue)) }
    unsafe _ = pthread_mutex_destroy(mutex)
    unsafe conditions.deallocate()
    unsafe mutex.deallocate()
  }

  private func condition(_ queue: Int) -> UnsafeMutablePointer<pthread_cond_t> {
    unsafe precondition(conditions.indices.contains(queue))
    guard let base = unsafe conditions.baseAddress else { preconditionFailure("a monitor has a queue") }
    return unsafe base + queue
  }

  /// Runs `body` with the state to itself. Never do I/O in it.
  public func withLock<Result, Failure: Error>(_ body: (inout State) throws(Failure) -> Result)
    throws(Failure) -> Result
  {
    unsafe _ = pthread_mutex_lock(mutex)
    defer { unsafe _ = pthread_mutex_unlock(mutex) }
    return try body(&state)
  }

  /// Changes the state, then wakes all who wait for it, in whatever queue.
  public func update<Result>(_ body: (inout State) -> Result) -> Result {
    withLock { state in
      defer { for queue in unsafe conditions.indices { wake(queue) } }
      return body(&state)
    }
  }

  /// Wakes the threads of one queue, with or without the lock. Who finds that nothing has changed for it waits on.
  public func wake(_ queue: Int) {
    unsafe _ = pthread_cond_broadcast(condition(queue))
  }

  /// Waits until `body` gives a result, asking it again after every `update`; nil after `timeout`.
  public func wait<Result>(timeout: Duration, until body: (inout State) -> Result?) -> Result? {
    var deadline = timespec()
    unsafe _ = clock_gettime(CLOCK_MONOTONIC, &deadline)
    let (seconds, attoseconds) = max(timeout, .zero).components
    let nanoseconds = deadline.tv_nsec + Int(attoseconds / 1_000_000_000)
    deadline.tv_sec += Int(min(max(seconds, 0), 1 << 32)) + nanoseconds / 1_000_000_000
    deadline.tv_nsec = nanoseconds % 1_000_000_000
    unsafe _ = pthread_mutex_lock(mutex)
    defer { unsafe _ = pthread_mutex_unlock(mutex) }
    while true {
      if let result = body(&state) { return result }
      if unsafe pthread_cond_timedwait(condition(0), mutex, &deadline) == ETIMEDOUT { return body(&state) }
    }
  }

  /// Waits in a queue until `body` gives a result, asking it again after every `update` and `wake`.
  public func wait<Result>(in queue: Int = 0, until body: (inout State) -> Result?) -> Result {
    unsafe _ = pthread_mutex_lock(mutex)
    defer { unsafe _ = pthread_mutex_unlock(mutex) }
    // Not by `withLock`: its access to the state would last while the lock is given up, and the optimiser may
    // take what it has read for unchanged until an access ends.
    while true {
      if let result = body(&state) { return result }
      unsafe _ = pthread_cond_wait(condition(queue), mutex)
    }
  }
}

/// A one-way switch that long-running work looks at and sleeping work wakes up by.
public final class Cancellation: Sendable {
  private let cancelled = Monitor(false)

  public init() {}

  public func cancel() { cancelled.update { $0 = true } }

  public var isCancelled: Bool { cancelled.withLock { $0 } }

  /// Sleeps for the duration; true as soon as the switch is thrown.
  public func sleep(_ duration: Duration) -> Bool {
    cancelled.wait(timeout: duration) { $0 ? true : nil } ?? false
  }
}

/// A thread of the operating system with an owner that joins it.
public final class WorkerThread: @unchecked Sendable {
  private let thread: pthread_t
  /// `joined` guards against a second join, which would be undefined; only the owner calls `join`.
  private var joined = false

  private final class Body: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  /// Starts `body` on a new thread; nil if the system gives no more threads.
  public init?(_ body: @escaping @Sendable () -> Void) {
    var thread = pthread_t()
    let argument = unsafe Unmanaged.passRetained(Body(body))
    let result = unsafe pthread_create(
      &thread, nil,
      { argument in
        guard let argument = unsafe argument else { return nil }
        unsafe Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
        return nil
      }, argument.toOpaque())
    guard result == 0 else {
      unsafe argument.release()
      return nil
    }
    self.thread = thread
  }

  /// Waits for the thread's end.
  public func join() {
    guard !joined else { return }
    joined = true
    _ = pthread_join(thread, nil)
  }
}
