import BorgFormat
import Disk
import DiskSimulation
import Storage
import SystemPackage
import Testing

/// Failed write-backs, of which the kernel tells one caller for each descriptor, once.
@Suite struct WritebackTests {
  /// So many that a batch is flushed by one `syncfs`.
  private static let count = 20

  private static func content(_ number: Int) -> String { String(repeating: "object \(number) ", count: 20) }

  private static func storeBatch(from first: Int, in store: PosixStore) throws(ServeError) {
    for number in first..<first + count { try store.store(data(number), text(content(number))) }
  }

  private enum Stage { case waiting, flushing, canGoOn }

  /// What is to happen while a publisher flushes.
  enum Other: CaseIterable { case batch, reference, deletion }

  @Test(arguments: Other.allCases)
  func `of two flushes at once, a failed write-back that one is told of stops both`(other: Other) throws {
    let disk = SimulatedDisk()
    let store = PosixStore(root: disk.root(), label: "test")
    try store.store(named("archives/old"), text("x"))
    // Leaves so many directories changed that the next sync of theirs is one of all.
    try Self.storeBatch(from: 100, in: store)
    try store.barrier(durable: false)
    let stage = Monitor(Stage.waiting)
    let before = disk.count(.syncFileSystem)
    disk.before(.syncFileSystem) {
      stage.update { $0 = .flushing }
      stage.wait { $0 == .canGoOn ? () : nil }
      disk.failWriteback()
      // In vain if the other one waits, as it has to; else it is the one that is told.
      disk.waitUntilFinished(.syncFileSystem, count: before + 1)
    }
    let renames = disk.count(.rename)
    // And who was not told would give names before the other can say what it knows.
    disk.after(.syncFileSystem, after: 1) { disk.waitUntilFinished(.rename, count: renames + Self.count) }
    try Self.storeBatch(from: 200, in: store)
    let isAcknowledged = Monitor(false)
    let first = WorkerThread {
      guard (try? store.barrier(durable: false)) != nil else { return }
      isAcknowledged.update { $0 = true }
    }
    stage.wait { $0 == .flushing ? () : nil }
    if other == .batch { try Self.storeBatch(from: 300, in: store) }
    stage.update { $0 = .canGoOn }
    let failure = #expect(throws: ServeError.self) {
      switch other {
      case .batch: try store.barrier(durable: false)
      case .reference: try store.store(named("archives/new"), text("x"))
      case .deletion: _ = try store.delete(named("archives/old"))
      }
    }
    first?.join()
    guard case .system(let system)? = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
    #expect(Errno(rawValue: system.code) == .ioError)
    #expect(!isAcknowledged.withLock { $0 })
    try Self.expectNothingMore(from: store, on: disk)
  }

  private static func expectNothingMore(from store: PosixStore, on disk: SimulatedDisk) throws {
    #expect(throws: ServeError.self) { try store.barrier(durable: true) }
    #expect(throws: ServeError.self) { try store.store(named("archives/later"), text("x")) }
    #expect(throws: ServeError.self) { try store.delete(named("archives/old")) }
    let isNamed = { (number: Int) in disk.paths.contains(data(number).nested(dataLevels: 2)) }
    #expect([200, 300].flatMap { Array($0..<$0 + count) }.filter(isNamed) == [])
    #expect(throws: ServeError.self) { try store.close() }
    for seed in 0..<20 as Range<UInt64> {
      let next = PosixStore(root: disk.powerCut(seed: seed).root(), label: "test")
      for number in [100, 200, 300].flatMap({ Array($0..<$0 + count) }) {
        guard let found = try next.text(data(number)) else { continue }
        #expect(found == content(number), "object \(number), seed \(seed)")
      }
      #expect(try next.info(named("archives/later")) == nil)
    }
  }

  @Test func `a write-back that failed before the flush is told by it`() throws {
    let disk = SimulatedDisk()
    let store = PosixStore(root: disk.root(), label: "test")
    try Self.storeBatch(from: 200, in: store)
    disk.failWriteback()
    #expect(throws: ServeError.self) { try store.barrier(durable: false) }
    try Self.expectNothingMore(from: store, on: disk)
  }

  @Test func `flushes that overlap and go well both give names`() throws {
    let disk = SimulatedDisk()
    let store = PosixStore(root: disk.root(), label: "test")
    let stage = Monitor(Stage.waiting)
    disk.before(.syncFileSystem) {
      stage.update { $0 = .flushing }
      stage.wait { $0 == .canGoOn ? () : nil }
      disk.waitUntilFinished(.syncFileSystem, count: 1, patience: .milliseconds(20))
    }
    try Self.storeBatch(from: 200, in: store)
    let first = WorkerThread { try? store.barrier(durable: false) }
    stage.wait { $0 == .flushing ? () : nil }
    try Self.storeBatch(from: 300, in: store)
    stage.update { $0 = .canGoOn }
    try store.store(named("archives/a"), text("x"))
    first?.join()
    for seed in 0..<20 as Range<UInt64> {
      let next = PosixStore(root: disk.powerCut(seed: seed).root(), label: "test")
      for number in [200, 300].flatMap({ Array($0..<$0 + Self.count) }) {
        #expect(try next.text(data(number)) == Self.content(number), "object \(number), seed \(seed)")
      }
    }
    try? store.close()
  }
}
