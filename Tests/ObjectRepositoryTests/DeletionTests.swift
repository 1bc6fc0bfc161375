import BorgFormat
import DiskSimulation
import ObjectRepository
import Storage
import SystemPackage
import Testing

/// A chunk index never names what is gone: clients believe in it, and leave out of their backups what it has.
@Suite struct DeletionTests {
  private static let count = 6

  /// A repository with some objects and an index that names them all.
  private static func fill(_ repository: ObjectRepository) throws {
    for number in 0..<count {
      let bytes = object(data: "\(number)")
      try repository.put(id(number), ObjectContent(bytes), size: bytes.count)
    }
    try storeIndex(of: (0..<count).map { id($0) }, in: repository)
  }

  private static func storeIndex(of ids: [ObjectID], in repository: ObjectRepository) throws {
    let index = try index(of: ids)
    try repository.storeStore(index.name, ObjectContent(index.bytes), size: index.bytes.count)
  }

  /// Ids in an index without an object.
  private static func missing(in store: any ObjectStore) throws -> [String] {
    var missing: [String] = []
    for (name, ids) in try store.indexes() {
      for id in ids where try store.info(StoreName(id: id)) == nil { missing.append("\(id.hex) of \(name)") }
    }
    return missing
  }

  @Test func `the indexes go before the first object, others stay`() throws {
    let store = MemoryStore()
    let order = RecordingReporter()
    var watched = InterceptedStore(base: store)
    watched.onDelete = { name in order.log(.info, .serve, "\(name.namespace)") }
    let repository = try Opener(creatingIn: watched).open()
    try Self.fill(repository)
    try repository.storeStore(named("cache/other"), text("kept"), size: 4)
    #expect(try repository.delete(id(0)))
    #expect(try repository.delete(id(1)))
    #expect(try !repository.delete(id(1)))
    #expect(order.lines.map(\.message) == ["cache", "cache", "data", "data", "data"])
    #expect(try store.names(.cache) == ["other"])
  }

  @Test func `an index that was stored after a delete goes with the next one`() throws {
    let store = MemoryStore()
    let repository = try Opener(creatingIn: store).open()
    try Self.fill(repository)
    #expect(try repository.delete(id(0)))
    try Self.storeIndex(of: (1..<Self.count).map { id($0) }, in: repository)
    #expect(try repository.delete(id(1)))
    #expect(try Self.missing(in: store) == [])
  }

  @Test func `an index that a check wrote goes with the next delete`() throws {
    let store = MemoryStore()
    let repository = try Opener(creatingIn: store).open()
    try Self.fill(repository)
    #expect(try repository.delete(id(0)))
    let request = ObjectRepository.CheckRequest(
      repairs: true, maxDuration: .zero, checkpoint: RepositoryLayout.checkpointName(for: nil))
    #expect(try repository.check(request))
    #expect(try store.indexes().count == 1)
    #expect(try repository.delete(id(1)))
    #expect(try Self.missing(in: store) == [])
  }

  @Test func `an index that was moved into place goes with the next delete`() throws {
    let store = MemoryStore()
    let repository = try Opener(creatingIn: store).open()
    try Self.fill(repository)
    #expect(try repository.delete(id(0)))
    let index = try index(of: (1..<Self.count).map { id($0) })
    try repository.storeStore(named("config/parked"), ObjectContent(index.bytes), size: index.bytes.count)
    try repository.storeMove(named("config/parked"), to: index.name)
    #expect(try repository.delete(id(1)))
    #expect(try Self.missing(in: store) == [])
  }

  @Test(arguments: ["delete", "storeDelete", "storeMove"])
  func `every way to remove an object forgets the indexes`(way: String) throws {
    let store = MemoryStore()
    let repository = try Opener(creatingIn: store).open()
    try Self.fill(repository)
    let name = StoreName(id: id(0))
    switch way {
    case "delete": _ = try repository.delete(id(0))
    case "storeDelete": try repository.storeDelete(name)
    default: try repository.storeMove(name, to: name.softDeleted())
    }
    #expect(try store.indexes().isEmpty)
  }

  /// What `compact` does: deletes in the middle, an index of the rest at the end.
  private static func compact(_ repository: ObjectRepository) throws {
    for number in stride(from: 0, to: count, by: 2) { _ = try repository.delete(id(number)) }
    try storeIndex(of: stride(from: 1, to: count, by: 2).map { id($0) }, in: repository)
    _ = try repository.delete(id(1))
    try repository.close()
  }

  @Test(arguments: [true, false])
  func `a crash at any call of a compaction leaves no index that names what is gone`(syncsWhole: Bool) throws
  {
    var options = SimulatedDisk.Options()
    options.syncsWhole = syncsWhole
    var isFinished = false
    var call = 0
    while !isFinished {
      for seed in 0..<8 as Range<UInt64> {
        let disk = SimulatedDisk(options)
        let repository = try Opener(creatingIn: posixStore(on: disk)).open()
        try Self.fill(repository)
        disk.losePower(after: call)
        isFinished = (try? Self.compact(repository)) != nil
        let next = posixStore(on: seed == 0 ? disk.kill() : disk.powerCut(seed: seed))
        #expect(try Self.missing(in: next) == [], "call \(call), seed \(seed)")
        for number in [3, 5] { #expect(try next.info(StoreName(id: id(number))) != nil) }
        _ = try Opener(next).open()
      }
      call += 1
    }
    #expect(call > 20)
  }

  @Test(arguments: [true, false])
  func `a crash at any call of a repair leaves no index that names what is gone`(syncsWhole: Bool) throws {
    var options = SimulatedDisk.Options()
    options.syncsWhole = syncsWhole
    let request = ObjectRepository.CheckRequest(
      repairs: true, maxDuration: .zero, checkpoint: RepositoryLayout.checkpointName(for: nil))
    var isFinished = false
    var call = 0
    while !isFinished {
      for seed in 0..<6 as Range<UInt64> {
        let disk = SimulatedDisk(options)
        let repository = try Opener(creatingIn: posixStore(on: disk)).open()
        try Self.fill(repository)
        try repository.put(id(2), text("corrupted"), size: 9)
        try repository.storeStore(named("config/manifest"), text("x"), size: 1)
        disk.losePower(after: call)
        isFinished = (try? repository.check(request)) != nil
        let next = posixStore(on: seed == 0 ? disk.kill() : disk.powerCut(seed: seed))
        #expect(try Self.missing(in: next) == [], "call \(call), seed \(seed)")
      }
      call += 1
    }
  }

  @Test func `a power cut right after a delete leaves no index that names it`() throws {
    for seed in 0..<60 as Range<UInt64> {
      let disk = SimulatedDisk()
      let repository = try Opener(creatingIn: posixStore(on: disk)).open()
      try Self.fill(repository)
      #expect(try repository.delete(id(0)))
      let next = posixStore(on: disk.powerCut(seed: seed))
      #expect(try next.indexes().isEmpty, "seed \(seed)")
    }
  }

  @Test func `when the indexes cannot be forgotten, nothing is deleted`() throws {
    let disk = SimulatedDisk()
    let store = posixStore(on: disk)
    let repository = try Opener(creatingIn: store).open()
    try Self.fill(repository)
    disk.fail(.unlink, with: .ioError)
    #expect(throws: ServeError.self) { try repository.delete(id(0)) }
    #expect(try store.info(StoreName(id: id(0))) != nil)
    #expect(try repository.delete(id(0)))
    #expect(try store.indexes().isEmpty)
  }

  // MARK: Destroying

  @Test func `a destroyed repository is gone, what is foreign stays and is named`() throws {
    let disk = SimulatedDisk()
    try disk.install([1], at: "notes.txt")
    var opener = Opener(locking: posixStore(on: disk), exclusive: true)
    opener.creates = true
    let repository = try opener.open()
    try Self.fill(repository)
    #expect(try repository.destroy() == ["notes.txt"])
    #expect(disk.paths == ["notes.txt"])
    #expect(throws: ServeError.repositoryMissing("test")) { try Opener(posixStore(on: disk)).open() }
  }

  @Test func `a crash at any call of destroying leaves all, or no repository`() throws {
    var isFinished = false
    var call = 0
    while !isFinished {
      for seed in 0..<8 as Range<UInt64> {
        let disk = SimulatedDisk()
        let repository = try Opener(creatingIn: posixStore(on: disk)).open()
        try Self.fill(repository)
        disk.losePower(after: call)
        isFinished = (try? repository.destroy()) != nil
        let next = posixStore(on: seed == 0 ? disk.kill() : disk.powerCut(seed: seed))
        do {
          _ = try Opener(next).open()
          #expect(try Self.missing(in: next) == [], "call \(call), seed \(seed)")
          let ids = try next.objects(after: nil, limit: 100) { _ in }
          #expect(ids?.count == Self.count, "call \(call), seed \(seed)")
        } catch ServeError.repositoryMissing {
          continue
        }
      }
      call += 1
    }
  }
}
