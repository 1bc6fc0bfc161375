import BorgFormat
import Disk
import DiskSimulation
import Storage
import Synchronization
import SystemPackage
import TestKit
import Testing

/// The count of what is stored, and the limits that it is held against.
@Suite struct UsageTests {
  /// A store in a directory of this machine that counts.
  private static func open(_ directory: Directory, limit: UInt64 = .max) throws(ServeError) -> MeteredStore<
    PosixStore
  > {
    let ledger = try UsageLedger(root: directory, label: "test")
    return MeteredStore(
      PosixStore(root: directory, label: "test"), limits: [UsageLimit(ledger, bytes: limit)])
  }

  private static func use(_ store: MeteredStore<PosixStore>) throws -> UInt64? { try store.quota()?.usage }

  @Test func `what is stored, replaced, moved and removed is counted`() throws {
    let directory = try TemporaryDirectory()
    let store = try Self.open(try directory.open())
    try store.store(path("packs/ab/\(digest)"), bytes(100), keepsOther: false)
    try store.store(path("config/config"), bytes(30), keepsOther: false)
    #expect(try Self.use(store) == 130)
    try store.store(path("config/config"), bytes(10), keepsOther: false)
    #expect(try Self.use(store) == 110)
    try store.store(path("archives/a"), bytes(5), keepsOther: false)
    #expect(try store.move(path("config/config"), to: path("archives/a")))
    #expect(try Self.use(store) == 110)
    #expect(try store.remove(path("packs/ab/\(digest)")))
    #expect(try !store.remove(path("packs/ab/\(digest)")))
    #expect(try Self.use(store) == 10)
    let name = try StoreName(parsing: "data/\(digest)")
    try store.store(name, bytes(7), keepsOther: false)
    #expect(try Self.use(store) == 17)
    #expect(try store.delete(name))
    #expect(try Self.use(store) == 10)
    try store.close()
  }

  @Test func `what would exceed the limit is refused, and nothing of it is stored`() throws {
    let directory = try TemporaryDirectory()
    let store = try Self.open(try directory.open(), limit: 100)
    try store.store(path("a"), bytes(60), keepsOther: false)
    #expect(throws: ServeError.storageQuotaExceeded(quota: 100, use: 60)) {
      try store.store(path("b"), bytes(41), keepsOther: false)
    }
    #expect(try store.entry(path("b")) == nil)
    try store.store(path("b"), bytes(40), keepsOther: false)
    #expect(try store.quota() ?? (0, 0) == (100, 100))
    #expect(store.availableSpace() == 0)
    try store.close()
  }

  @Test func `the same again, less, nothing, and locks pass where there is no room left`() throws {
    let directory = try TemporaryDirectory()
    let first = try Self.open(try directory.open())
    try first.store(path("config/manifest"), bytes(90), keepsOther: false)
    try first.close()
    let store = try Self.open(try directory.open(), limit: 50)
    try store.store(path("config/manifest"), bytes(90), keepsOther: false)
    #expect(throws: ServeError.self) { try store.store(path("config/manifest"), bytes(91), keepsOther: false) }
    try store.store(path("config/manifest"), bytes(80), keepsOther: false)
    try store.store(path("cache/chunkindex-invalid"), bytes(0), keepsOther: false)
    try store.store(path("locks/\(digest)"), bytes(150), keepsOther: false)
    #expect(try Self.use(store) == 230)
    #expect(throws: ServeError.self) { try store.store(path("locks/large"), bytes(2_000_000), keepsOther: false) }
    #expect(try store.remove(path("locks/\(digest)")))
    #expect(try Self.use(store) == 80)
    try store.close()
  }

  @Test func `backups leave some room to deletions`() throws {
    let directory = try TemporaryDirectory()
    let store = try Self.open(try directory.open(), limit: 160)
    #expect(throws: ServeError.self) {
      try store.store(path("packs/ab/\(digest)"), bytes(151), keepsOther: false)
    }
    try store.store(path("packs/ab/\(digest)"), bytes(150), keepsOther: false)
    try store.store(path("index/\(digest)"), bytes(10), keepsOther: false)
    try store.close()
  }

  @Test func `a session too short for the periodic work counts anew at its end`() throws {
    let directory = try TemporaryDirectory()
    let first = try Self.open(try directory.open())
    try first.store(path("archives/a"), bytes(60), keepsOther: false)
    try first.close()
    let foreign = PosixStore(root: try directory.open(), label: "foreign")
    try foreign.store(path("archives/b"), bytes(40), keepsOther: false)
    try foreign.close()
    try Self.open(try directory.open(), limit: 100).close()
    let next = try Self.open(try directory.open(), limit: 100)
    #expect(try Self.use(next) == 100)
    try next.close()
  }

  @Test func `a failed store gives back what it reserved`() throws {
    let directory = try TemporaryDirectory()
    let store = try Self.open(try directory.open())
    try store.makeDirectory(path("taken"))
    #expect(throws: ServeError.self) { try store.store(path("taken"), bytes(60), keepsOther: false) }
    #expect(try Self.use(store) == 0)
    try store.close()
  }

  @Test func `the next session knows the count without a scan`() throws {
    let directory = try TemporaryDirectory()
    let first = try Self.open(try directory.open())
    try first.store(path("a"), bytes(60), keepsOther: false)
    try first.close()
    let second = try Self.open(try directory.open())
    #expect(try Self.use(second) == 60)
    let ledger = try UsageLedger(root: try directory.open(), label: "test")
    #expect(try !ledger.needsRecount())
    try ledger.close()
    try second.close()
  }

  @Test func `after a crash the count is made anew before anything is stored`() throws {
    let directory = try TemporaryDirectory()
    do {
      let killed = try Self.open(try directory.open(), limit: 1000)
      try killed.store(path("a"), bytes(60), keepsOther: false)
      // Neither settled nor closed.
      let ledger = try UsageLedger(root: try directory.open(), label: "test")
      try ledger.reserve(500, limit: 1000)
    }
    let next = try Self.open(try directory.open(), limit: 100)
    #expect(try Self.use(next) == 560)
    try next.store(path("b"), bytes(40), keepsOther: false)
    #expect(try Self.use(next) == 100)
    try next.close()
  }

  @Test func `a foreign writer is noticed by the times of directories`() throws {
    let directory = try TemporaryDirectory()
    let first = try Self.open(try directory.open())
    try first.store(path("archives/a"), bytes(60), keepsOther: false)
    try first.close()
    let foreign = PosixStore(root: try directory.open(), label: "foreign")
    try foreign.store(path("archives/b"), bytes(40), keepsOther: false)
    try foreign.close()
    let next = try Self.open(try directory.open(), limit: 100)
    // Counted beside the work: what is granted meanwhile may be too much by what the other one stored.
    try next.store(path("c"), bytes(1), keepsOther: false)
    next.tick()
    #expect(throws: ServeError.storageQuotaExceeded(quota: 100, use: 101)) {
      try next.store(path("d"), bytes(1), keepsOther: false)
    }
    try next.close()
  }

  @Test func `a foreign writer beside us is noticed by the marker that it removes`() throws {
    let directory = try TemporaryDirectory()
    let store = try Self.open(try directory.open())
    try store.store(path("packs/ab/\(digest)"), bytes(60), keepsOther: false)
    let root = try directory.open()
    #expect(try root.remove("quota.hid"))
    let foreign = PosixStore(root: try directory.open(), label: "foreign")
    try foreign.store(path("packs/cd/\(digest)"), bytes(40), keepsOther: false)
    try foreign.close()
    store.tick()
    #expect(try Self.use(store) == 100)
    #expect(try root.status("quota.hid") != nil)
    try store.close()
  }

  @Test func `an original with a quota finds the count where it looks for it`() throws {
    let directory = try TemporaryDirectory()
    let store = try Self.open(try directory.open())
    try store.store(path("a"), bytes(61), keepsOther: false)
    try store.close()
    let marker = try directory.open().file("quota.hid").read(at: 0, count: 100)
    #expect(String(decoding: marker, as: UTF8.self) == "61")
  }

  @Test func `several that store at once never exceed the limit`() throws {
    let directory = try TemporaryDirectory()
    let stores = try (0..<3).map { _ in try Self.open(try directory.open(), limit: 1000) }
    let granted = Atomic<Int>(0)
    let threads = stores.enumerated().flatMap { number, store in
      (0..<2).compactMap { half in
        WorkerThread {
          for index in 0..<40 where index % 2 == half {
            guard let path = try? StorePath(parsing: "n\(number)/\(index)") else { continue }
            if (try? store.store(path, bytes(10), keepsOther: false)) != nil {
              granted.add(1, ordering: .relaxed)
            }
          }
        }
      }
    }
    for thread in threads { thread.join() }
    #expect(granted.load(ordering: .relaxed) == 100)
    #expect(try Self.use(stores[0]) == 1000)
    for store in stores { try store.close() }
  }

  @Test func `a user's limit is over all repositories below`() throws {
    let directory = try TemporaryDirectory()
    let user = try directory.open()
    for name in ["laptop", "phone"] { try user.makeDirectory(name) }
    let above = try UsageLedger(root: user, label: "user")
    let stores = try ["laptop", "phone"].map { name in
      let root = try user.directory(name)
      return MeteredStore(
        PosixStore(root: root, label: name),
        limits: [
          UsageLimit(try UsageLedger(root: root, label: name), bytes: 80),
          UsageLimit(try UsageLedger(root: user, label: "user"), bytes: 100),
        ])
    }
    try stores[0].store(path("a"), bytes(70), keepsOther: false)
    #expect(throws: ServeError.storageQuotaExceeded(quota: 100, use: 70)) {
      try stores[1].store(path("a"), bytes(31), keepsOther: false)
    }
    // What the tighter one refused is not left counted in the other.
    try stores[1].store(path("a"), bytes(30), keepsOther: false)
    #expect(try above.usage() == 100)
    #expect(try Self.use(stores[1]) == 100)
    for store in stores { try store.close() }
    try above.close()
  }

  @Test func `a damaged count is made anew`() throws {
    let directory = try TemporaryDirectory()
    let first = try Self.open(try directory.open())
    try first.store(path("a"), bytes(60), keepsOther: false)
    try first.close()
    let file = try directory.open().file("borg-serve-usage.hid", .update)
    try file.write([9], 0..<1, at: 9)
    let next = try Self.open(try directory.open(), limit: 100)
    #expect(throws: ServeError.storageQuotaExceeded(quota: 100, use: 60)) {
      try next.store(path("b"), bytes(41), keepsOther: false)
    }
    try next.close()
  }

  @Test func `after a power cut the count is never too low`() throws {
    for seed in UInt64(0)..<60 {
      let disk = SimulatedDisk()
      disk.losePower(after: Int(seed) * 3 + 10)
      if let store = try? Self.open(disk.root()) {
        for number in 0..<8 { try? store.store(path("archives/\(number)"), bytes(10), keepsOther: false) }
        try? store.close()
      }
      let after = disk.powerCut(seed: seed)
      let next = try Self.open(after.root())
      try next.store(path("archives/next"), bytes(1), keepsOther: false)
      let there = try next.entries(in: path("archives"))?.reduce(0) { $0 + $1.size } ?? 0
      #expect(try Self.use(next) ?? 0 >= UInt64(there), "seed \(seed)")
      try next.close()
    }
  }
}

private let digest = String(repeating: "ab", count: 32)

private func path(_ text: String) throws(ServeError) -> StorePath { try StorePath(parsing: text) }

private func bytes(_ count: Int) -> ObjectContent { ObjectContent([UInt8](repeating: 7, count: count)) }
