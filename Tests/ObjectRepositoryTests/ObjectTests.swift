import BorgFormat
import Disk
import DiskSimulation
import Glibc
import ObjectRepository
import Storage
import Testing

@Suite struct ObjectTests {
  private let store = MemoryStore()
  private let repository: ObjectRepository

  init() throws { repository = try Opener(creatingIn: store).open() }

  private static func bytes(_ content: ObjectRepository.Content?) throws -> [UInt8]? {
    switch content {
    case nil: return nil
    case .bytes(let bytes): return bytes
    case .object(let object, let count): return try object.prefix(count)
    }
  }

  @Test func `after an object that could not be stored, no index and no archive of the session is`() throws {
    let failure = ServeError.system(
      SystemFailure(operation: "write", name: "x", code: ENOSPC, reason: "full"))
    repository.noteUnstored(failure)
    repository.noteUnstored(.notOpen)
    for name in ["cache/chunks.0123456789abcdef", "archives/0123"] {
      let name = try StoreName(parsing: name)
      #expect(throws: failure) { try repository.storeStore(name, text("x"), size: 1) }
      #expect(store.info(name) == nil)
    }
    try repository.storeStore(StoreName(parsing: "config/manifest"), text("x"), size: 1)
  }

  @Test func `an object is got whole, or its header and metadata alone`() throws {
    let whole = object(meta: "the metadata", data: "the data")
    try repository.put(id(1), ObjectContent(whole), size: whole.count)
    #expect(try Self.bytes(repository.get(id(1))) == whole)
    #expect(try Self.bytes(repository.get(id(1), readsData: false)) == Array(whole.prefix(24 + 12)))
    #expect(try repository.get(id(2)) == nil)
  }

  @Test func `an object without whole metadata is an integrity error, in the original's words`() throws {
    let short = Array(object(meta: "metadata", data: "").prefix(28))
    try repository.put(id(1), ObjectContent(Array(short.prefix(10))), size: 10)
    try repository.put(id(2), ObjectContent(short), size: short.count)
    let first = "Object too small [id \(id(1).hex)]: expected 24, got 10 bytes"
    #expect(throws: ServeError.integrity(first)) { try repository.get(id(1), readsData: false) }
    let second = "Object too small [id \(id(2).hex)]: expected 8, got 4 bytes"
    #expect(throws: ServeError.integrity(second)) { try repository.get(id(2), readsData: false) }
  }

  @Test func `a large object is streamed`() throws {
    let large = [UInt8](repeating: 7, count: Limits.inlineValue + 1)
    try repository.put(id(1), ObjectContent(large), size: large.count)
    guard case .object(_, let count) = try repository.get(id(1)) else {
      Issue.record("in memory")
      return
    }
    #expect(count == large.count)
  }

  @Test func `an object longer than any message is an integrity error`() throws {
    let directory = try TemporaryDirectory()
    let store = PosixStore(root: try directory.open(), label: "test")
    let repository = try Opener(creatingIn: store).open()
    let names = [StoreName(id: id(1)), try named("cache/large"), RepositoryLayout.manifestName]
    for name in names { try store.store(name, text("x")) }
    try store.barrier(durable: true)
    // A file with a hole takes no space.
    let resize = { (size: Int) in
      for name in names {
        let path = "\(directory.path.text)/\(name.nested(dataLevels: 2))"
        #expect(unsafe truncate(path, size) == 0)
      }
    }
    let reads: [() throws -> ObjectRepository.Content?] = [
      { try repository.get(id(1)) }, { try repository.storeLoad(names[1]) }, { try repository.manifest() },
    ]
    resize(Limits.messagePackLength)
    for read in reads {
      guard case .object(_, let count) = try read() else {
        Issue.record("in memory")
        continue
      }
      #expect(count == Limits.messagePackLength)
    }
    for size in [1 << 32, 1 << 32 + 4] {
      resize(size)
      for read in reads {
        let failure = #expect(throws: ServeError.self) { _ = try read() }
        guard case .integrity? = failure else {
          Issue.record("\(String(describing: failure))")
          continue
        }
      }
    }
    try repository.close()
  }

  @Test func `the largest object is taken, one byte more is not`() throws {
    try repository.put(id(1), text("x"), size: Limits.putData)
    #expect(throws: ServeError.self) { try repository.put(id(2), text("x"), size: Limits.putData + 1) }
    #expect(store.info(StoreName(id: id(2))) == nil)
  }

  @Test func `a missing manifest is no missing object`() {
    #expect(throws: ServeError.manifestMissing) { try repository.manifest() }
    #expect(throws: ServeError.storeObjectMissing("keys/repokey")) { try repository.loadKey() }
  }

  @Test func `missing objects are reported by their nested names`() throws {
    let name = StoreName(id: ObjectID(0xABCD_0000_0000_0000, 0, 0, 0))
    let missing = ServeError.storeObjectMissing("data/ab/cd/abcd\(String(repeating: "0", count: 60))")
    #expect(throws: missing) { try repository.storeLoad(name) }
    #expect(throws: missing) { try repository.storeDelete(name) }
    #expect(throws: missing) { try repository.storeMove(name, to: name.softDeleted()) }
  }

  @Test(arguments: [
    ("data/\(String(repeating: "0", count: 64))", Limits.putData), ("cache/chunks.1", Limits.chunkIndex),
    ("config/space-reserve.0", Limits.chunkIndex), ("config/manifest", Limits.smallObject),
    ("archives/a", Limits.smallObject), ("keys/repokey", Limits.smallObject),
    ("locks/a", Limits.smallObject),
  ])
  func `each kind of object has its limit`(text name: String, limit: Int) throws {
    let name = try named(name)
    #expect(ObjectRepository.sizeLimit(of: name) == limit)
    #expect(throws: ServeError.self) { try repository.storeStore(name, text("x"), size: limit + 1) }
    try repository.storeStore(name, text("x"), size: limit)
  }

  @Test func `pages follow each other, whatever the marker`() throws {
    for number in 0..<10 { try repository.put(id(number), text("x"), size: 1) }
    let all = (0..<10).map { id($0) }.sorted()
    #expect(try repository.list(after: nil, limit: 4).map(\.id) == Array(all[..<4]))
    #expect(try repository.list(after: all[3], limit: 100).map(\.id) == Array(all[4...]))
    let between = ObjectID(all[3].word0, all[3].word1, all[3].word2, all[3].word3 + 1)
    #expect(try repository.list(after: between, limit: 2).map(\.id) == Array(all[4..<6]))
    #expect(try Opener(creatingIn: MemoryStore()).open().list(after: nil, limit: 4) == [])
  }

  @Test func `a clean close makes everything durable`() throws {
    for seed in 0..<20 as Range<UInt64> {
      let disk = SimulatedDisk()
      var opener = Opener(locking: posixStore(on: disk), exclusive: false)
      opener.creates = true
      let repository = try opener.open()
      for number in 0..<5 { try repository.put(id(number), text("x"), size: 1) }
      try repository.close()
      let next = posixStore(on: disk.powerCut(seed: seed))
      #expect(try Opener(next).open().list(after: nil, limit: 10).count == 5, "seed \(seed)")
      #expect(disk.paths.filter { $0.hasSuffix(".tmp/") } == [])
    }
  }
}
