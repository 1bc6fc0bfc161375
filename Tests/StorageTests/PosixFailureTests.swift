import BorgFormat
import Disk
import DiskSimulation
import Storage
import SystemPackage
import Testing

/// What `PosixStore` does when calls fail, and when threads meet.
@Suite struct PosixFailureTests {
  private static func store(on disk: SimulatedDisk, inBackground: Bool = false) -> PosixStore {
    var options = PosixStore.Options()
    options.publishesInBackground = inBackground
    return PosixStore(root: disk.root(), label: "test", options: options)
  }

  @Test(arguments: [CallKind.sync, .rename, .makeDirectory], [false, true])
  func `after a failed publication nothing more is promised`(kind: CallKind, inBackground: Bool) throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk, inBackground: inBackground)
    try store.store(data(1), text("x"))
    disk.fail(kind, with: .ioError)
    #expect(throws: ServeError.self) { try store.barrier(durable: true) }
    #expect(throws: ServeError.self) { try store.barrier(durable: false) }
    #expect(throws: ServeError.self) { try store.store(data(2), text("x")) }
    #expect(throws: ServeError.self) { try store.store(named("archives/a"), text("x")) }
    #expect(throws: ServeError.self) { try store.delete(data(1)) }
    #expect(throws: ServeError.self) { try store.move(named("archives/a"), to: named("archives/b")) }
    #expect(throws: ServeError.self) { try store.close() }
    #expect(!disk.paths.contains("archives/a"))
  }

  @Test func `what could not be published is still read, as long as the session lasts`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    try store.store(data(1), text("x"))
    disk.fail(.rename, with: .noSpace)
    #expect(throws: ServeError.self) { try store.barrier(durable: false) }
    #expect(try store.text(data(1)) == "x")
    try? store.close()
    #expect(!disk.paths.contains { $0.contains("borg-serve.tmp") })
  }

  @Test func `a lock can be given up when nothing else goes any more`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    try store.store(try named("locks/1"), text("x"))
    try store.store(data(1), text("x"))
    disk.fail(.sync, with: .ioError)
    #expect(throws: ServeError.self) { try store.barrier(durable: true) }
    #expect(try store.delete(named("locks/1")))
    #expect(disk.contents("locks/1") == nil)
  }

  @Test(arguments: [data(1), StoreName(.archives, "a")])
  func `a full disk refuses an object, and takes one when there is room`(name: StoreName) throws {
    let disk = SimulatedDisk()
    disk.options.capacity = 100
    let store = Self.store(on: disk)
    let large = ObjectContent([UInt8](repeating: 1, count: 101))
    let failure = #expect(throws: ServeError.self) { try store.store(name, large) }
    guard case .system(let system) = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
    #expect(Errno(rawValue: system.code) == .noSpace)
    #expect(try store.info(name) == nil)
    #expect(store.availableSpace() == 100)
    try store.store(name, text("small"))
    try store.close()
    #expect(disk.paths.filter { !$0.hasSuffix("/") } == [name.nested(dataLevels: 2)])
  }

  @Test func `an upload that met a full disk fails when it is stored`() throws {
    let disk = SimulatedDisk()
    disk.options.capacity = 100
    let store = Self.store(on: disk)
    let upload = try store.upload()
    for _ in 0..<3 { upload.append([UInt8](repeating: 1, count: 40), 0..<40) }
    #expect(throws: ServeError.self) { try store.store(data(1), .upload(upload)) }
    #expect(store.availableSpace() == 100)
    #expect(try store.info(data(1)) == nil)
    try store.close()
  }

  @Test(arguments: CallKind.allCases)
  func `a lock whose writing fails leaves nothing behind`(kind: CallKind) throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    disk.fail(kind, with: .ioError)
    guard (try? store.store(named("locks/1"), text("x"))) == nil else { return }
    #expect(disk.paths.filter { !$0.hasSuffix("/") } == [])
  }

  // MARK: Directories that nobody synced

  @Test func `a move of nothing does not make directories that nobody syncs`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    #expect(try !store.move(named("keys/a"), to: named("archives/a")))
    #expect(try !store.move(data(1), to: data(2)))
    try store.store(data(2), text("x"))
    try store.store(try named("archives/a"), text("x"))
    try Self.expectAll([data(2), try named("archives/a")], afterCutsOf: disk)
  }

  @Test func `a namespace that was made before a failure is durable later`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    // "archives/borg-serve.tmp" is missing its parent, which is made; then the disk is full for a moment.
    disk.fail(.makeDirectory, after: 2, with: .noSpace)
    #expect(throws: ServeError.self) { try store.store(named("archives/a"), text("x")) }
    try store.store(try named("archives/a"), text("x"))
    try Self.expectAll([try named("archives/a")], afterCutsOf: disk)
  }

  @Test(arguments: [true, false])
  func `directories of a killed session are made durable by the next`(syncsWhole: Bool) throws {
    var options = SimulatedDisk.Options()
    options.syncsWhole = syncsWhole
    let disk = SimulatedDisk(options)
    let killed = Self.store(on: disk)
    try killed.store(data(1), text("old"))
    try killed.barrier(durable: false)
    let after = disk.kill()
    let store = Self.store(on: after)
    try store.store(data(1), text("new"))
    try store.store(try named("archives/a"), text("x"))
    try Self.expectAll([data(1), try named("archives/a")], afterCutsOf: after)
  }

  private static func expectAll(_ names: [StoreName], afterCutsOf disk: SimulatedDisk) throws {
    for seed in 0..<30 as Range<UInt64> {
      let store = store(on: disk.powerCut(seed: seed))
      for name in names { #expect(try store.info(name) != nil, "\(name.text), seed \(seed)") }
    }
  }

  // MARK: Threads

  @Test func `no barrier is acknowledged while another thread still syncs for it`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    try store.store(data(1), text("x"))
    let (second, isDone) = (Monitor<WorkerThread?>(nil), Monitor(false))
    // The object's own sync is the first one, then come directories. In between a second barrier, which
    // may wait for the first, or do it all itself, but not take what it finds begun for done.
    disk.before(.sync, after: 1) {
      let thread = WorkerThread {
        guard (try? store.barrier(durable: true)) != nil else { return }
        isDone.update { $0 = true }
      }
      second.update { $0 = thread }
      guard isDone.wait(timeout: .milliseconds(100), until: { $0 ? true : nil }) == true else { return }
      let after = disk.powerCut(seed: 0)
      #expect(after.contents(data(1).nested(dataLevels: 2)) == Array("x".utf8))
    }
    _ = try? store.barrier(durable: true)
    second.withLock { $0 }?.join()
    #expect(isDone.withLock { $0 })
  }

  @Test(arguments: [false, true])
  func `many threads store, delete and set barriers at once`(inBackground: Bool) throws {
    for round in 0..<20 {
      let disk = SimulatedDisk()
      let store = Self.store(on: disk, inBackground: inBackground)
      let problems = Monitor<[String]>([])
      let threads = (0..<4).compactMap { thread in
        WorkerThread {
          do {
            for number in 0..<6 {
              let name = data(thread * 100 + number)
              try store.store(name, text("\(thread)"))
              if number == 2 { try store.barrier(durable: true) }
              if number == 3 { _ = try store.delete(data(thread * 100)) }
              if try store.text(name) != "\(thread)" { problems.update { $0.append("lost \(name.text)") } }
            }
            try store.store(named("archives/\(thread)"), text(""))
          } catch {
            problems.update { $0.append("\(error)") }
          }
        }
      }
      #expect(threads.count == 4)
      for thread in threads { thread.join() }
      #expect(problems.withLock { $0 } == [], "round \(round)")
      #expect((try? store.objects(after: nil, limit: 100) { _ in })??.count == 20, "round \(round)")
      try? store.close()
    }
  }
}
