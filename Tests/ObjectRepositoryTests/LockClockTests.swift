import BorgFormat
import Disk
import ObjectRepository
import Storage
import Synchronization
import Testing

/// What needs time to pass.
@Suite struct LockClockTests {
  /// A wall clock that a test turns, in milliseconds. A class because the lock's owner shares it.
  private final class WallClock: Sendable {
    private let milliseconds = Mutex(Host.now())
    var now: Int64 { milliseconds.withLock { $0 } }
    func advance(seconds: Int) { milliseconds.withLock { $0 += Int64(seconds) * 1000 } }
  }

  private let store = MemoryStore(label: "repo")
  private let clock = WallClock()
  private let repository: ObjectRepository

  init() throws {
    var opener = Opener(locking: store, exclusive: true)
    opener.creates = true
    let clock = clock
    opener.owner = LockOwner(hostID: "here@1", now: { clock.now })
    repository = try opener.open()
  }

  @Test func `a lock is renewed when it is half as old as others tolerate`() throws {
    let first = try store.names(.locks)
    clock.advance(seconds: Limits.lockRefreshSeconds)
    try repository.refreshLock()
    #expect(try store.names(.locks) == first)
    clock.advance(seconds: 1)
    try repository.refreshLock()
    let second = try store.names(.locks)
    #expect(second.count == 1 && second != first)
    let bytes = try #require(try store.load(named("locks/\(second[0])"), limit: 1000))
    let record = try LockRecord(parsing: bytes.span)
    #expect(record.isExclusive && record.time.milliseconds == clock.now)
    try repository.close()
    #expect(try store.names(.locks) == [])
  }

  @Test func `any request renews the lock`() throws {
    let requests: [(ObjectRepository) throws -> Void] = [
      { _ = try $0.get(id(1)) }, { try $0.put(id(1), text("x"), size: 1) }, { _ = try $0.delete(id(1)) },
      { _ = try $0.list(after: nil, limit: 1) }, { _ = try $0.storeList("archives", deleted: false) },
      { _ = try $0.storeLoad(RepositoryLayout.idName) },
      { try $0.storeStore(named("config/manifest"), text("x"), size: 1) }, { _ = try $0.manifest() },
      { try $0.storeMove(named("config/manifest"), to: named("config/moved")) },
      { try $0.storeDelete(named("config/moved")) },
    ]
    for request in requests {
      let before = try store.names(.locks)
      clock.advance(seconds: Limits.lockRefreshSeconds + 1)
      try request(repository)
      #expect(try store.names(.locks) != before)
      #expect(try store.names(.locks).count == 1)
    }
  }

  @Test func `a broken lock is noticed when it is to be renewed`() throws {
    _ = store.delete(try named("locks/\(try #require(try store.names(.locks).first))"))
    clock.advance(seconds: Limits.lockRefreshSeconds + 1)
    #expect(throws: ServeError.lockTimeout("repo")) { try repository.put(id(1), text("x"), size: 1) }
    #expect(store.info(StoreName(id: id(1))) == nil)
    #expect(try store.names(.locks) == [])
  }

  @Test func `a lock that was not renewed goes stale for others`() throws {
    var late = Opener(locking: store, exclusive: true)
    let clock = clock
    late.owner = LockOwner(hostID: "elsewhere@2", now: { clock.now })
    clock.advance(seconds: Limits.lockStaleSeconds)
    #expect(throws: ServeError.self) { try late.open() }
    clock.advance(seconds: 1)
    let other = try late.open()
    #expect(throws: ServeError.lockTimeout("repo")) { try repository.refreshLock() }
    try other.close()
  }

  @Test func `shared locks that one process writes in one millisecond are several, and each has its end`()
    throws
  {
    try repository.close()
    let owner = LockOwner(hostID: "here@1", now: { [now = clock.now] in now })
    let readers = try (0..<20).map { _ in
      var opener = Opener(locking: store, exclusive: false)
      opener.owner = owner
      return try opener.open()
    }
    for left in (0..<20).reversed() {
      #expect(try store.names(.locks).count == left + 1)
      try readers[left].close()
    }
    #expect(try store.names(.locks) == [])
  }

  @Test func `a clock that is set back takes the times of new locks with it`() throws {
    try repository.close()
    let clock = clock
    clock.advance(seconds: -60)
    var opener = Opener(locking: store, exclusive: false)
    opener.owner = LockOwner(hostID: "here@1", now: { clock.now })
    let first = try opener.open()
    clock.advance(seconds: -60)
    let second = try opener.open()
    let times = try store.names(.locks).map { name in
      let bytes = try #require(try store.load(named("locks/\(name)"), limit: 1000))
      return try LockRecord(parsing: bytes.span).time.milliseconds
    }
    #expect(times.sorted() == [clock.now, clock.now + 60_000])
    try first.close()
    try second.close()
  }
}
