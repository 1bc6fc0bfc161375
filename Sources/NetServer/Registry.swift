import BorgFormat
import REST
import Synchronization

/// The repositories that are open, one place for each, shared by all connections. Thread-safe; a class because it is shared.
final class Registry: Sendable {
  private let open: @Sendable (RepositoryName) -> any StorePlace
  /// How long one stays open that nobody uses. Everything in it is published by then.
  private let idle: Duration
  private let entries = Mutex<[RepositoryName: Entry]>([:])
  private let tell: @Sendable (RepositoryName, any Error) -> Void

  private struct Entry {
    let place: any StorePlace
    var users = 0
    /// Whether a request has ended, so that the store is open.
    var isWarm = false
    var lastUse: ContinuousClock.Instant
  }

  /// `open` makes a place, and does not look at the disk. `tell` hears what fails when nobody asks any more.
  init(
    idle: Duration = .seconds(60), open: @escaping @Sendable (RepositoryName) -> any StorePlace,
    tell: @escaping @Sendable (RepositoryName, any Error) -> Void
  ) {
    (self.idle, self.open, self.tell) = (idle, open, tell)
  }

  /// The place of a repository, which stays open until as many calls of `leave` have come, and whether somebody has used it
  /// before. Waits for no disk.
  func enter(_ name: RepositoryName) -> (place: any StorePlace, isWarm: Bool) {
    entries.withLock { entries in
      if let entry = entries[name] {
        entries[name]?.users += 1
        return (entry.place, entry.isWarm)
      }
      let entry = Entry(place: open(name), users: 1, lastUse: .now)
      entries[name] = entry
      return (entry.place, false)
    }
  }

  func leave(_ name: RepositoryName) {
    entries.withLock { entries in
      entries[name]?.users -= 1
      entries[name]?.lastUse = .now
      entries[name]?.isWarm = true
    }
  }

  var names: [RepositoryName] { entries.withLock { Array($0.keys) } }

  /// Lets stores publish what has waited, and closes those that nobody uses. Blocking; called once a second.
  func tick(at now: ContinuousClock.Instant = .now) {
    let (living, idle) = entries.withLock { entries in
      let idle = entries.filter { $0.value.users == 0 && now - $0.value.lastUse >= self.idle }
      for name in idle.keys { entries[name] = nil }
      return (entries.map(\.value.place), idle)
    }
    for place in living { place.tick() }
    for (name, entry) in idle { close(name, entry.place) }
  }

  /// Closes all, durably. Blocking.
  func closeAll() {
    let all = entries.withLock { entries in
      defer { entries = [:] }
      return entries
    }
    for (name, entry) in all { close(name, entry.place) }
  }

  private func close(_ name: RepositoryName, _ place: any StorePlace) {
    do throws(ServeError) {
      try place.close()
    } catch {
      tell(name, error)
    }
  }
}
