import BorgFormat
import Disk
import DiskSimulation
import ObjectRepository
import Storage
import SystemPackage
import Testing

/// Indexes are gone for good before the first object is, whoever removes them, and wherever they lie.
@Suite struct ConcurrentDeletionTests {
  private static let seeds: Range<UInt64> = 0..<40

  private static func put(_ numbers: Range<Int>, in repository: ObjectRepository) throws {
    for number in numbers {
      let bytes = object(data: "\(number)")
      try repository.put(id(number), ObjectContent(bytes), size: bytes.count)
    }
  }

  /// A repository with one index, which names all its objects.
  private static func fill(_ numbers: Range<Int>, on disk: SimulatedDisk) throws {
    let repository = try Opener(creatingIn: posixStore(on: disk)).open()
    for name in try repository.storeList("cache", deleted: false) {
      try repository.storeDelete(named("cache/\(name.name)"))
    }
    try put(numbers, in: repository)
    let index = try index(of: numbers.map { id($0) })
    try repository.storeStore(index.name, ObjectContent(index.bytes), size: index.bytes.count)
    try repository.close()
  }

  /// Objects that an index names and that are not there, after a power cut.
  private static func missing(after disk: SimulatedDisk) throws -> [String] {
    try seeds.flatMap { seed in
      let store = posixStore(on: disk.powerCut(seed: seed))
      return try store.indexes().values.joined()
        .filter { id throws in try store.info(StoreName(id: id)) == nil }
        .map { "\($0.hex), seed \(seed)" }
    }
  }

  /// Where the worker that removes the indexes is held up.
  enum Gate: CaseIterable { case removed, syncing, synced }

  @Test(arguments: Gate.allCases)
  func `of two workers that delete, neither is answered before the indexes are gone for good`(
    gate: Gate
  ) throws {
    let disk = SimulatedDisk()
    try Self.fill(0..<6, on: disk)
    let repository = try Opener(posixStore(on: disk)).open()
    let (isAnswered, worker) = (Monitor(false), Monitor<WorkerThread?>(nil))
    let early = Monitor<[String]>([])
    let hold: @Sendable () -> Void = {
      let thread = WorkerThread {
        guard (try? repository.delete(id(1))) == true else { return }
        isAnswered.update { $0 = true }
      }
      worker.update { $0 = thread }
      guard isAnswered.wait(timeout: .milliseconds(100), until: { $0 ? true : nil }) == true else { return }
      let missing = (try? Self.missing(after: disk)) ?? ["nothing can be read"]
      early.update { $0 = missing }
    }
    switch gate {
    case .removed: disk.after(.unlink, hold)
    case .syncing: disk.before(.sync, hold)
    case .synced: disk.after(.sync, hold)
    }
    _ = try? repository.delete(id(0))
    worker.withLock { $0 }?.join()
    #expect(isAnswered.withLock { $0 })
    #expect(early.withLock { $0 } == [])
    #expect(try Self.missing(after: disk) == [])
  }

  @Test func `when the one that removes the indexes fails, the other does it`() throws {
    let disk = SimulatedDisk()
    try Self.fill(0..<6, on: disk)
    let repository = try Opener(posixStore(on: disk)).open()
    let (result, worker) = (Monitor<Bool?>(nil), Monitor<WorkerThread?>(nil))
    disk.before(.unlink) {
      let thread = WorkerThread {
        let isDeleted = (try? repository.delete(id(1))) ?? false
        result.update { $0 = isDeleted }
      }
      worker.update { $0 = thread }
      _ = result.wait(timeout: .milliseconds(50)) { $0 }
    }
    disk.fail(.unlink, with: .ioError)
    _ = try? repository.delete(id(0))
    worker.withLock { $0 }?.join()
    #expect(result.withLock { $0 } == true)
    #expect(try Self.missing(after: disk) == [])
  }

  @Test(arguments: ["cache", "data", nil], [0, 12])
  func `with the indexes on another device, they are gone for good before the first object is`(
    mountPoint: String?, changed: Int
  ) throws {
    let disk = SimulatedDisk()
    if let mountPoint { try disk.mount(at: mountPoint) }
    try Self.fill(0..<6, on: disk)
    let repository = try Opener(posixStore(on: disk)).open()
    // Their directories wait to be synced, too, as many as are not worth counting any more.
    try Self.put(100..<100 + changed, in: repository)
    #expect(try repository.list(after: nil, limit: 100).count == 6 + changed)
    #expect(try repository.delete(id(0)))
    #expect(try Self.missing(after: disk) == [])
  }
}
