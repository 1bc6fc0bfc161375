import BorgFormat
import Disk
import Storage

/// This session's lock on a repository, among the locks that all Borg processes keep in `locks/`.
///
/// A class because the session's requests and its ticker share it. A lock is found again by its key, not by
/// its host and process, so that several sessions of one process never confuse theirs. Source of the
/// protocol: borg 2.0.0b18 `src/borg/storelocking.py`.
final class RepositoryLock: Sendable {
  private let store: any ObjectStore
  private let owner: LockOwner
  let isExclusive: Bool
  private let state: Monitor<State>

  private struct State {
    var key: String
    /// When the lock object was written, in milliseconds since 1970 UTC.
    var written: Int64
    /// Whether somebody is renewing the lock, alone.
    var isBusy = false
    var isReleased = false
  }

  private static let raceRecheckDelay = Duration.milliseconds(10)
  private static let othersGoAwayDelay = Duration.milliseconds(100)
  /// Shorter than the original's 1 to 5 s: a waiter starts sooner, and a local look costs next to nothing.
  private static let retryDelay = 200...600

  private init(store: any ObjectStore, owner: LockOwner, isExclusive: Bool, _ state: State) {
    self.store = store
    self.owner = owner
    self.isExclusive = isExclusive
    self.state = Monitor(state)
  }

  /// Waits at most `wait` for a lock; there is always one attempt. Blocking.
  ///
  /// Throws `lockTimeout`, or `cancelled`; either way no lock of ours stays behind.
  static func acquire(
    in store: any ObjectStore, owner: LockOwner, exclusive: Bool, wait: Duration,
    cancellation: Cancellation, reporter: any Reporter
  ) throws(ServeError) -> RepositoryLock {
    let deadline = ContinuousClock.now + wait
    while true {
      let others = try locks(in: store, owner: owner, reporter: reporter)
      if !others.contains(where: { $0.value.isExclusive }) {
        let own = try write(in: store, owner: owner, exclusive: exclusive)
        do {
          let isOurs = try settle(
            own, in: store, owner: owner, exclusive: exclusive, deadline, cancellation, reporter)
          if isOurs {
            return RepositoryLock(store: store, owner: owner, isExclusive: exclusive, own)
          }
        } catch {
          _ = try? store.delete(name(own.key))
          throw error
        }
        _ = try store.delete(name(own.key))
      }
      let left = deadline - ContinuousClock.now
      guard left > .zero else { throw .lockTimeout(store.label) }
      let pause = min(left, .milliseconds(Int.random(in: retryDelay)))
      if cancellation.sleep(pause) { throw .cancelled }
    }
  }

  /// Whether our new lock stands: others may have written theirs at the same time, and shared ones may have
  /// to end first.
  private static func settle(
    _ own: State, in store: any ObjectStore, owner: LockOwner, exclusive: Bool,
    _ deadline: ContinuousClock.Instant, _ cancellation: Cancellation, _ reporter: any Reporter
  ) throws(ServeError) -> Bool {
    // Not cut short by a hangup: a lock that nobody contends for is to be had all the same.
    Host.pause(raceRecheckDelay)
    var present = try locks(in: store, owner: owner, reporter: reporter)
    let exclusiveOnes = present.filter { $0.value.isExclusive }.keys
    guard exclusive else { return exclusiveOnes.isEmpty }
    guard exclusiveOnes.count == 1, exclusiveOnes.first == own.key else { return false }
    while present.count > 1 {
      let left = deadline - ContinuousClock.now
      guard left > .zero else { return false }
      if cancellation.sleep(min(left, othersGoAwayDelay)) { throw .cancelled }
      present = try locks(in: store, owner: owner, reporter: reporter)
    }
    return present.keys.first == own.key
  }

  /// Renews the lock object once it is half as old as others tolerate. Cheap when it is not due.
  ///
  /// Throws `lockTimeout` if the lock is gone: somebody broke it, and may have removed objects that the
  /// client counts on, so that it must not go on.
  func refresh() throws(ServeError) {
    // Requests and the ticker come here at once; whoever finds it busy waits, and then finds it done.
    let due: State? = state.wait { state -> State?? in
      let isDue = owner.now() - state.written > Int64(Limits.lockRefreshSeconds) * 1000
      guard isDue, !state.isReleased else { return .some(nil) }
      guard !state.isBusy else { return nil }
      state.isBusy = true
      return state
    }
    guard let old = due else { return }
    var current = old
    defer {
      state.update { state in
        (state.key, state.written) = (current.key, current.written)
        state.isBusy = false
      }
    }
    guard try store.info(Self.name(old.key)) != nil else { throw .lockTimeout(store.label) }
    current = try Self.write(in: store, owner: owner, exclusive: isExclusive)
    if current.key != old.key { _ = try store.delete(Self.name(old.key)) }
  }

  /// Gives the lock up. Throws `notLocked` if it was gone already.
  func release() throws(ServeError) {
    let key: String = state.wait { state in
      guard !state.isBusy else { return nil }
      state.isReleased = true
      return state.key
    }
    guard try store.delete(Self.name(key)) else { throw .notLocked(store.label) }
  }

  /// Removes every lock, readable or not. Source: the original's `break_lock`, which needs them readable.
  static func breakAll(in store: any ObjectStore) throws(ServeError) {
    for entry in try store.list(Namespace.locks.rawValue, deleted: false) ?? [] {
      if let name = name(ofEntry: entry.name) { _ = try store.delete(name) }
    }
  }

  /// Removes the locks whose holders are gone, as whoever sees them does; returns how many others are left,
  /// those that cannot be read among them.
  static func breakStale(in store: any ObjectStore, owner: LockOwner, reporter: any Reporter)
    throws(ServeError) -> Int
  {
    _ = try locks(in: store, owner: owner, reporter: reporter)
    return try store.list(Namespace.locks.rawValue, deleted: false)?.count ?? 0
  }

  /// The living locks by key; stale ones are removed, as everybody does who sees them.
  private static func locks(in store: any ObjectStore, owner: LockOwner, reporter: any Reporter)
    throws(ServeError) -> [String: LockRecord]
  {
    var found: [String: LockRecord] = [:]
    for entry in try store.list(Namespace.locks.rawValue, deleted: false) ?? [] {
      // Any of them may vanish between the listing and here.
      guard let name = name(ofEntry: entry.name), entry.size <= Limits.lockRecord,
        let content = try store.load(name, limit: Limits.lockRecord)
      else { continue }
      guard let record = try? LockRecord(parsing: content.span) else {
        try dismiss(name, content, in: store, reporter)
        continue
      }
      if record.isStale(
        now: Timestamp(milliseconds: owner.now()), hostID: owner.hostID,
        processIsAlive: owner.processIsAlive)
      {
        _ = try store.delete(name)
      } else {
        found[entry.name] = record
      }
    }
    return found
  }

  /// Handles a lock that cannot be read. Empty ones are what a power cut leaves of a lock: they go. Others
  /// may be a newer Borg's and stay, but keep nobody out.
  private static func dismiss(
    _ name: StoreName, _ content: [UInt8], in store: any ObjectStore, _ reporter: any Reporter
  )
    throws(ServeError)
  {
    if content.allSatisfy({ $0 == 0 }) {
      reporter.log(.warning, .serve, "Removing the empty lock \(name.text).")
      _ = try store.delete(name)
    } else {
      reporter.log(.warning, .serve, "Ignoring the unreadable lock \(name.text).")
    }
  }

  private static func write(in store: any ObjectStore, owner: LockOwner, exclusive: Bool)
    throws(ServeError) -> State
  {
    let time = owner.stamp()
    let record = LockRecord(
      isExclusive: exclusive, hostID: owner.hostID, processID: owner.processID, threadID: 0,
      time: Timestamp(milliseconds: time))
    try store.store(name(record.key), ObjectContent(record.encoded))
    return State(key: record.key, written: time)
  }

  private static func name(_ key: String) throws(ServeError) -> StoreName {
    try StoreName(parsing: "\(Namespace.locks.rawValue)/\(key)")
  }

  private static func name(ofEntry entry: String) -> StoreName? { try? name(entry) }
}
