import BorgFormat
import Disk
import DiskSimulation
import ObjectRepository
import Storage
import Synchronization
import SystemPackage
import Testing

@Suite struct LockTests {
  private let store: MemoryStore

  init() throws {
    store = MemoryStore(label: "repo")
    _ = try Opener(creatingIn: store).open()
  }

  /// Puts a lock of somebody else's into the repository.
  @discardableResult
  private func install(
    exclusive: Bool, host: String = "elsewhere@2", process: Int = 1, thread: Int = 0, age: Int64 = 0
  ) throws -> StoreName {
    let record = LockRecord(
      isExclusive: exclusive, hostID: host, processID: process, threadID: thread,
      time: Timestamp(milliseconds: Host.now() - age * 1000))
    let name = try named("locks/\(record.key)")
    try store.store(name, ObjectContent(record.encoded))
    return name
  }

  private static let noProcess = Int(Int32.max)

  @Test func `a lock says who holds it, and its key is its text's checksum`() throws {
    let before = Host.now()
    let repository = try Opener(locking: store, exclusive: true).open()
    let key = try #require(try store.names(.locks).first)
    let bytes = try #require(try store.load(named("locks/\(key)"), limit: 1000))
    let record = try LockRecord(parsing: bytes.span)
    #expect(record.key == key)
    #expect(record.encoded == bytes)
    #expect(record.isExclusive && record.hostID == "here@1" && record.threadID == 0)
    #expect(record.processID == Host.processID)
    #expect((before...Host.now()).contains(record.time.milliseconds))
    try repository.close()
    #expect(try store.names(.locks) == [])
  }

  @Test func `sessions share a repository, each with a lock of its own`() throws {
    let first = try Opener(locking: store, exclusive: false).open()
    let second = try Opener(locking: store, exclusive: false).open()
    #expect(try store.names(.locks).count == 2)
    try first.close()
    #expect(try store.names(.locks).count == 1)
    try second.close()
    #expect(try store.names(.locks) == [])
  }

  @Test(arguments: [(true, true), (true, false), (false, true)])
  func `an exclusive lock stands alone`(held: Bool, wanted: Bool) throws {
    let first = try Opener(locking: store, exclusive: held).open()
    let locks = try store.names(.locks)
    #expect(throws: ServeError.lockTimeout("repo")) {
      try Opener(locking: store, exclusive: wanted).open()
    }
    #expect(try store.names(.locks) == locks)
    try first.close()
    try Opener(locking: store, exclusive: wanted).open().close()
  }

  @Test func `no wait is one attempt, which a free repository grants`() throws {
    try Opener(locking: store, exclusive: true, wait: .zero).open().close()
    try Opener(locking: store, exclusive: false, wait: .seconds(-5)).open().close()
  }

  @Test(arguments: [true, false])
  func `a wait that ends leaves no lock`(wanted: Bool) throws {
    let other = try install(exclusive: true)
    let start = ContinuousClock.now
    #expect(throws: ServeError.lockTimeout("repo")) {
      try Opener(locking: store, exclusive: wanted, wait: .milliseconds(30)).open()
    }
    #expect(ContinuousClock.now - start >= .milliseconds(30))
    #expect(try store.names(.locks).map { "locks/\($0)" } == [other.text])
  }

  @Test func `an exclusive lock waits for shared ones to end, and keeps new ones out`() throws {
    let other = try install(exclusive: false)
    let looks = Mutex(0)
    var waiting = InterceptedStore(base: store)
    let store = store
    waiting.onList = { directory in
      guard directory == "locks" else { return }
      let look = looks.withLock { looks in
        looks += 1
        return looks
      }
      guard look == 3 else { return }
      #expect(throws: ServeError.self) { try Opener(locking: store, exclusive: false).open() }
      _ = store.delete(other)
    }
    try Opener(locking: waiting, exclusive: true, wait: .seconds(60)).open().close()
    #expect(looks.withLock { $0 } == 3)
  }

  @Test func `two that want to be alone at the same time both give way`() throws {
    var racing = InterceptedStore(base: store)
    let rival = Mutex<StoreName?>(nil)
    racing.onStore = { [self] name in
      guard name.namespace == .locks else { return }
      rival.withLock { $0 = try? install(exclusive: true) }
    }
    #expect(throws: ServeError.lockTimeout("repo")) { try Opener(locking: racing, exclusive: true).open() }
    let left = try #require(rival.withLock { $0 })
    #expect(try store.names(.locks).map { "locks/\($0)" } == [left.text])
  }

  // MARK: Others' locks

  @Test(arguments: [
    (1, true), (Int64(Limits.lockStaleSeconds) - 5, true), (Int64(Limits.lockStaleSeconds) + 5, false),
    (-3600, true),
  ])
  func `a lock goes stale with age`(age: Int64, isKept: Bool) throws {
    let other = try install(exclusive: true, age: age)
    if isKept {
      #expect(throws: ServeError.self) { try Opener(locking: store, exclusive: false).open() }
    } else {
      try Opener(locking: store, exclusive: false).open().close()
    }
    #expect((store.info(other) != nil) == isKept)
  }

  @Test func `a dead process's lock on this host goes at once`() throws {
    let other = try install(exclusive: true, host: "here@1", process: Self.noProcess)
    try Opener(locking: store, exclusive: true).open().close()
    #expect(store.info(other) == nil)
  }

  @Test func `a living process's lock stays, even if it is not ours to signal`() throws {
    // Process 1 always lives, and for everybody but root answers EPERM.
    let other = try install(exclusive: true, host: "here@1", process: 1)
    #expect(throws: ServeError.self) { try Opener(locking: store, exclusive: true).open() }
    #expect(store.info(other) != nil)
  }

  @Test func `of another host, or a thread, only the age counts`() throws {
    for (host, thread) in [("elsewhere@2", 0), ("here@1", 7)] {
      let other = try install(exclusive: true, host: host, process: Self.noProcess, thread: thread)
      #expect(throws: ServeError.self) { try Opener(locking: store, exclusive: true).open() }
      #expect(store.info(other) != nil)
      _ = store.delete(other)
    }
  }

  @Test(arguments: ["{}", "no JSON", #"{"exclusive": 1}"#])
  func `an unreadable lock is ignored, and stays`(content: String) throws {
    let name = try named("locks/0123456789abcdef")
    try store.store(name, text(content))
    let opener = Opener(locking: store, exclusive: true)
    try opener.open().close()
    #expect(try store.text(name) == content)
    let warning = RecordingReporter.Line(
      level: .warning, logger: .serve, message: "Ignoring the unreadable lock locks/0123456789abcdef.")
    #expect(opener.reporter.lines.contains(warning))
  }

  @Test(arguments: ["", "\0\0\0\0"])
  func `what a power cut left of a lock is removed`(content: String) throws {
    let name = try named("locks/0123456789abcdef")
    try store.store(name, text(content))
    let opener = Opener(locking: store, exclusive: true)
    try opener.open().close()
    #expect(store.info(name) == nil)
    let warning = RecordingReporter.Line(
      level: .warning, logger: .serve, message: "Removing the empty lock locks/0123456789abcdef.")
    #expect(opener.reporter.lines == [warning])
  }

  @Test func `a lock that vanishes while it is looked at is none`() throws {
    let other = try install(exclusive: true)
    var vanishing = InterceptedStore(base: store)
    let store = store
    vanishing.onList = { _ in _ = store.delete(other) }
    try Opener(locking: vanishing, exclusive: true).open().close()
  }

  @Test func `a huge file among the locks is not read`() throws {
    let name = try named("locks/0123456789abcdef")
    try store.store(name, ObjectContent([UInt8](repeating: 32, count: Limits.lockRecord + 1)))
    try Opener(locking: store, exclusive: true).open().close()
    #expect(store.info(name) != nil)
  }

  // MARK: Ends

  @Test func `cancelling wakes who waits, and leaves no lock`() throws {
    let other = try install(exclusive: true)
    let cancellation = Cancellation()
    let canceller = Mutex<WorkerThread?>(nil)
    var waiting = InterceptedStore(base: store)
    waiting.onList = { _ in
      canceller.withLock { $0 = $0 ?? WorkerThread { cancellation.cancel() } }
    }
    var opener = Opener(locking: waiting, exclusive: true, wait: .seconds(3600))
    opener.cancellation = cancellation
    #expect(throws: ServeError.cancelled) { try opener.open() }
    canceller.withLock { $0?.join() }
    #expect(try store.names(.locks).map { "locks/\($0)" } == [other.text])
  }

  @Test func `a lock that nobody contends for is had even while the session ends`() throws {
    let cancellation = Cancellation()
    var settling = InterceptedStore(base: store)
    settling.onStore = { _ in cancellation.cancel() }
    var opener = Opener(locking: settling, exclusive: true, wait: .seconds(3600))
    opener.cancellation = cancellation
    let repository = try opener.open()
    #expect(try store.names(.locks).count == 1)
    try repository.close()
    #expect(try store.names(.locks) == [])
  }

  @Test func `cancelling while others have to end first leaves no lock of ours`() throws {
    let other = try install(exclusive: false)
    let cancellation = Cancellation()
    var settling = InterceptedStore(base: store)
    settling.onStore = { _ in cancellation.cancel() }
    var opener = Opener(locking: settling, exclusive: true, wait: .seconds(3600))
    opener.cancellation = cancellation
    #expect(throws: ServeError.cancelled) { try opener.open() }
    #expect(try store.names(.locks).map { "locks/\($0)" } == [other.text])
  }

  @Test func `releasing a broken lock is an error`() throws {
    let repository = try Opener(locking: store, exclusive: true).open()
    try Opener(store).open().breakLock()
    #expect(try store.names(.locks) == [])
    #expect(throws: ServeError.notLocked("repo")) { try repository.close() }
  }

  @Test func `breaking removes every lock, readable or not`() throws {
    try install(exclusive: true)
    try install(exclusive: false)
    try store.store(try named("locks/garbage"), text("?"))
    try Opener(store).open().breakLock()
    #expect(try store.names(.locks) == [])
  }

  @Test func `a lock is not renewed before it is due`() throws {
    let repository = try Opener(locking: store, exclusive: true).open()
    let locks = try store.names(.locks)
    for _ in 0..<10 { try repository.refreshLock() }
    #expect(try store.names(.locks) == locks)
    try repository.close()
  }

  @Test func `the lock is given up even when the disk keeps no promise`() throws {
    let disk = SimulatedDisk()
    let store = posixStore(on: disk)
    var opener = Opener(locking: store, exclusive: true)
    opener.creates = true
    let repository = try opener.open()
    try repository.put(id(1), text("x"), size: 1)
    disk.fail(.sync, with: .ioError)
    #expect(throws: ServeError.self) { try repository.close() }
    #expect(disk.paths.filter { $0.hasPrefix("locks/") } == ["locks/"])
  }

  @Test func `a power cut leaves at worst a lock that the next session removes`() throws {
    for seed in 0..<60 as Range<UInt64> {
      let disk = SimulatedDisk()
      var opener = Opener(locking: posixStore(on: disk), exclusive: true)
      opener.creates = true
      let repository = try opener.open()
      try repository.storeStore(named("archives/a"), text(""), size: 0)
      let next = posixStore(on: disk.powerCut(seed: seed))
      for name in try next.names(.locks) {
        // A torn lock, or a whole one of a process that lives: ours. Both are for others to judge.
        let bytes = try #require(try next.load(named("locks/\(name)"), limit: 1000))
        if (try? LockRecord(parsing: bytes.span)) != nil { _ = try next.delete(named("locks/\(name)")) }
      }
      try Opener(locking: next, exclusive: true).open().close()
    }
  }
}
