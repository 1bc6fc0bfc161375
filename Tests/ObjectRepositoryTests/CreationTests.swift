import BorgFormat
import DiskSimulation
import ObjectRepository
import Storage
import SystemPackage
import Testing

@Suite struct CreationTests {
  @Test func `a new repository is what the original writes, byte for byte`() throws {
    let store = MemoryStore()
    let repository = try Opener(creatingIn: store).open()
    let readme = "This is a Borg Backup repository.\nSee https://borgbackup.readthedocs.io/\n"
    #expect(readme.utf8.count == 73)
    #expect(try store.text(named("config/readme")) == readme)
    #expect(try store.text(named("config/version")) == "3")
    #expect(try store.text(named("config/id")) == Hex.string(repository.id))
    #expect(repository.id.count == 32)
    let metadata = """
      {"key_size": 32, "value_size": 8, "byte_order": "little", "value_type_name": "ChunkIndexEntry", \
      "value_type_fields": ["flags", "size"], "value_format_name": "ChunkIndexEntryFormatT", \
      "value_format_fields": ["flags", "size"], "value_format": ["I", "I"], "capacity": 1000, "used": 0}
      """
    let index = Array("BORGHASH".utf8) + [1, 0, 0, 0, 0x19, 1, 0, 0] + Array(metadata.utf8)
    #expect(index.count == 297)
    #expect(try store.load(named("cache/chunks.a283591f50db914c"), limit: 1000) == index)
    #expect(
      store.list("", deleted: false)?.map(\.name) == [
        "chunks.a283591f50db914c", "id", "readme", "version",
      ])
  }

  @Test func `each repository has an id of its own`() throws {
    let ids = try (0..<8).map { _ in try Opener(creatingIn: MemoryStore()).open().id }
    #expect(Set(ids).count == 8)
  }

  @Test(arguments: [true, false])
  func `a crash at any call leaves a whole repository or none`(syncsWhole: Bool) throws {
    var options = SimulatedDisk.Options()
    options.syncsWhole = syncsWhole
    var isFinished = false
    var call = 0
    while !isFinished {
      for seed in 0..<12 as Range<UInt64> {
        let disk = SimulatedDisk(options)
        disk.losePower(after: call)
        let store = posixStore(on: disk)
        isFinished = (try? Opener(creatingIn: store).open()) != nil
        let next = posixStore(on: seed == 0 ? disk.kill() : disk.powerCut(seed: seed))
        do {
          _ = try Opener(next).open()
          #expect(try next.indexes().values.map(\.count) == [0], "call \(call), seed \(seed)")
        } catch ServeError.repositoryMissing {
          #expect(!isFinished, "call \(call), seed \(seed)")
        }
      }
      call += 1
    }
    #expect(call > 20)
  }

  @Test(arguments: [CallKind.write, .sync, .rename, .create, .makeDirectory])
  func `a creation that fails is no repository`(kind: CallKind) throws {
    for passes in 0..<4 {
      let disk = SimulatedDisk()
      disk.fail(kind, after: passes, with: .noSpace, permanently: true)
      guard (try? Opener(creatingIn: posixStore(on: disk)).open()) == nil else { continue }
      disk.heal()
      #expect(throws: ServeError.repositoryMissing("test")) { try Opener(posixStore(on: disk.kill())).open() }
    }
  }
}

@Suite struct OpeningTests {
  /// A repository with some objects replaced, or taken away.
  private static func store(_ changes: [String: String?]) throws -> MemoryStore {
    let store = MemoryStore()
    _ = try Opener(creatingIn: store).open()
    for (name, content) in changes {
      if let content {
        try store.store(try named(name), text(content))
      } else {
        _ = store.delete(try named(name))
      }
    }
    return store
  }

  @Test func `what was created is opened again`() throws {
    let store = MemoryStore()
    let created = try Opener(creatingIn: store).open()
    #expect(try Opener(store).open().id == created.id)
  }

  @Test func `an empty store is no repository`() {
    #expect(throws: ServeError.repositoryMissing("here")) { try Opener(MemoryStore(label: "here")).open() }
  }

  @Test func `without its readme it is no repository`() throws {
    let store = try Self.store(["config/readme": nil])
    #expect(throws: ServeError.repositoryMissing("memory")) { try Opener(store).open() }
  }

  @Test(arguments: ["", "something else", RepositoryLayout.readme + "\n"])
  func `a directory with another readme is something else`(readme: String) throws {
    let store = try Self.store(["config/readme": readme])
    #expect(throws: ServeError.repositoryInvalid("memory")) { try Opener(store).open() }
  }

  @Test(arguments: [
    ("two", "config/version is not a number"), ("", "config/version is not a number"),
    ("3 3", "config/version is not a number"),
    ("2", "repository version 2 is not supported by this borg version"),
    ("4", "repository version 4 is not supported by this borg version"),
  ])
  func `other versions are refused`(version: String, detail: String) throws {
    let store = try Self.store(["config/version": version])
    #expect(throws: ServeError.repositoryConfigInvalid("memory", detail: detail)) { try Opener(store).open() }
  }

  @Test func `blanks around the version do not matter`() throws {
    #expect(try Opener(Self.store(["config/version": " 3\n"])).open().id.count == 32)
  }

  @Test(arguments: ["", "abc", String(repeating: "0", count: 62), String(repeating: "z", count: 64)])
  func `a bad id is refused`(id: String) throws {
    let store = try Self.store(["config/id": id])
    let expected = ServeError.repositoryConfigInvalid("memory", detail: "config/id is not 64 hex digits")
    #expect(throws: expected) { try Opener(store).open() }
  }

  @Test(arguments: ["config/id", "config/version"])
  func `a missing part is named`(name: String) throws {
    let store = try Self.store([name: nil])
    #expect(throws: ServeError.storeObjectMissing(name)) { try Opener(store).open() }
  }

  @Test func `a refused repository is not locked`() throws {
    let store = try Self.store(["config/id": "bad"])
    #expect(throws: ServeError.self) { try Opener(locking: store, exclusive: true).open() }
    #expect(try store.names(.locks) == [])
  }

  @Test func `a file where the configuration should be is an error, not a repository`() throws {
    let disk = SimulatedDisk()
    try disk.install([1], at: "config")
    let failure = #expect(throws: ServeError.self) { try Opener(posixStore(on: disk)).open() }
    guard case .system = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
  }
}
