import BorgFormat
import DiskSimulation
import Storage
import Testing

/// What every kind of store promises.
@Suite struct StoreContract {
  static let names = ["archives/a", "cache/a", "config/a", "keys/a", "locks/a"]

  static var anyNames: [StoreName] { [data(1)] + names.compactMap { try? named($0) } }

  @Test(arguments: StoreKind.allCases)
  func `what was never stored is missing`(kind: StoreKind) throws {
    let opened = try kind.make()
    for name in Self.anyNames {
      #expect(try opened.store.info(name) == nil)
      #expect(try opened.store.text(name) == nil)
      #expect(try !opened.store.delete(name))
    }
    // Nor does looking for it make directories.
    #expect(try !opened.store.move(data(1), to: data(2)))
    #expect(try opened.store.list("data", deleted: false) == nil)
    #expect(try opened.store.objects(after: nil, limit: 10) { _ in } == nil)
  }

  @Test(arguments: StoreKind.allCases)
  func `what was stored is read at once, and after a barrier`(kind: StoreKind) throws {
    let opened = try kind.make()
    for isPublished in [false, true] {
      for name in Self.anyNames {
        if !isPublished { try opened.store.store(name, text("content of \(name.text)")) }
        #expect(try opened.store.text(name) == "content of \(name.text)")
        #expect(try opened.store.info(name) == "content of \(name.text)".utf8.count)
      }
      try opened.store.barrier(durable: true)
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `only the range that was given is stored`(kind: StoreKind) throws {
    let opened = try kind.make()
    for name in Self.anyNames {
      try opened.store.store(name, .bytes(Array("abcdef".utf8), 2..<4))
      #expect(try opened.store.text(name) == "cd")
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `an object that gives way does so to what is there, and is stored where nothing is`(kind: StoreKind)
    throws
  {
    let opened = try kind.make()
    let store = opened.store
    try store.store(data(1), text("first"))
    try store.barrier(durable: false)
    try store.store(data(1), text("second"), keepsOther: true)
    try store.store(data(2), text("alone"), keepsOther: true)
    try store.barrier(durable: true)
    #expect(try store.text(data(1)) == "first")
    #expect(try store.text(data(2)) == "alone")
    try store.store(data(1), text("third"))
    #expect(try store.text(data(1)) == "third")
  }

  @Test(arguments: StoreKind.allCases)
  func `an empty object is an object`(kind: StoreKind) throws {
    let opened = try kind.make()
    for name in Self.anyNames {
      try opened.store.store(name, text(""))
      #expect(try opened.store.info(name) == 0)
    }
    try opened.store.barrier(durable: true)
    for name in Self.anyNames { #expect(try opened.store.text(name)?.isEmpty == true) }
  }

  @Test(arguments: StoreKind.allCases, [[], [0], [1], [0, 1]])
  func `the last of several stores wins, wherever barriers stand`(kind: StoreKind, barriers: [Int]) throws {
    let opened = try kind.make()
    for name in Self.anyNames {
      for version in 0..<3 {
        try opened.store.store(name, text("version \(version)"))
        if barriers.contains(version) { try opened.store.barrier(durable: false) }
        #expect(try opened.store.text(name) == "version \(version)")
      }
      try opened.store.barrier(durable: true)
      #expect(try opened.store.text(name) == "version 2")
    }
  }

  @Test(arguments: StoreKind.allCases, [false, true])
  func `a deleted object is missing and can be stored again`(kind: StoreKind, isPublished: Bool) throws {
    let opened = try kind.make()
    for name in Self.anyNames {
      try opened.store.store(name, text("old"))
      if isPublished { try opened.store.barrier(durable: true) }
      #expect(try opened.store.delete(name))
      #expect(try !opened.store.delete(name))
      #expect(try opened.store.info(name) == nil)
      #expect(try opened.store.open(name) == nil)
      try opened.store.store(name, text("new"))
      try opened.store.barrier(durable: true)
      #expect(try opened.store.text(name) == "new")
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `deleting removes the published and the waiting version`(kind: StoreKind) throws {
    let opened = try kind.make()
    try opened.store.store(data(1), text("published"))
    try opened.store.barrier(durable: true)
    try opened.store.store(data(1), text("waiting"))
    #expect(try opened.store.delete(data(1)))
    try opened.store.barrier(durable: true)
    #expect(try opened.store.info(data(1)) == nil)
  }

  @Test(arguments: StoreKind.allCases)
  func `soft-deleted objects are listed apart and come back`(kind: StoreKind) throws {
    let opened = try kind.make()
    let name = try named("archives/a")
    try opened.store.store(name, text("x"))
    try opened.store.store(try named("archives/b"), text("yy"))
    let deleted = try name.softDeleted()
    #expect(try opened.store.move(name, to: deleted))
    #expect(try opened.store.info(name) == nil)
    #expect(try opened.store.text(deleted) == "x")
    #expect(try opened.store.list("archives", deleted: false) == [ListedObject(name: "b", size: 2)])
    #expect(try opened.store.list("archives", deleted: true) == [ListedObject(name: "a", size: 1)])
    #expect(try opened.store.move(deleted, to: deleted.living))
    #expect(try opened.store.text(name) == "x")
    #expect(try opened.store.list("archives", deleted: true)?.isEmpty == true)
  }

  @Test(arguments: StoreKind.allCases)
  func `soft-deleted repository objects are no repository objects`(kind: StoreKind) throws {
    let opened = try kind.make()
    try opened.store.store(data(1), text("x"))
    #expect(try opened.store.move(data(1), to: data(1).softDeleted()))
    #expect(try opened.store.info(data(1)) == nil)
    #expect(try opened.store.objects(after: nil, limit: 10) { Issue.record("foreign: \($0)") } == [])
    #expect(try opened.store.list("data", deleted: true) == [ListedObject(name: id(1).hex, size: 1)])
    #expect(try opened.store.delete(data(1).softDeleted()))
    #expect(try opened.store.list("data", deleted: true)?.isEmpty != false)
  }

  @Test(arguments: StoreKind.allCases)
  func `moving replaces what has the new name`(kind: StoreKind) throws {
    let opened = try kind.make()
    for namespace in ["config", "archives"] {
      let (old, new) = (try named("\(namespace)/old"), try named("\(namespace)/new"))
      try opened.store.store(old, text("moved"))
      try opened.store.store(new, text("replaced"))
      #expect(try opened.store.move(old, to: new))
      #expect(try opened.store.text(new) == "moved")
      #expect(try opened.store.info(old) == nil)
    }
    try opened.store.store(data(1), text("waiting"))
    #expect(try opened.store.move(data(1), to: data(2)))
    #expect(try opened.store.text(data(2)) == "waiting")
    #expect(try opened.store.info(data(1)) == nil)
  }

  @Test(arguments: StoreKind.allCases)
  func `a listing is ordered and shows what was stored before it`(kind: StoreKind) throws {
    let opened = try kind.make()
    for name in ["config/b", "config/a", "config/a.b", "keys/k"] {
      try opened.store.store(try named(name), text(name))
    }
    for number in [3, 1, 2] { try opened.store.store(data(number), text("x")) }
    #expect(try opened.store.list("config", deleted: false)?.map(\.name) == ["a", "a.b", "b"])
    #expect(try opened.store.list("keys", deleted: false)?.map(\.name) == ["k"])
    let ids = [1, 2, 3].map { id($0).hex }.sorted()
    #expect(try opened.store.list("data", deleted: false)?.map(\.name) == ids)
    #expect(try opened.store.list("data/\(ids[0].prefix(2))", deleted: false)?.map(\.name) == [ids[0]])
    #expect(try opened.store.list("archives", deleted: false) == nil)
  }

  @Test(arguments: StoreKind.allCases)
  func `a directory's objects stand where the directory's name does`(kind: StoreKind) throws {
    let opened = try kind.make()
    for name in ["config/a.b", "config/a/c", "config/b"] {
      try opened.store.store(try named(name), text(name))
    }
    // As in the original: each directory is sorted, and descended into in its place.
    #expect(try opened.store.list("config", deleted: false)?.map(\.name) == ["c", "a.b", "b"])
  }

  @Test(arguments: StoreKind.allCases)
  func `the empty directory name lists the whole store`(kind: StoreKind) throws {
    let opened = try kind.make()
    try opened.store.store(try named("keys/k"), text("k"))
    try opened.store.store(try named("config/c"), text("cc"))
    try opened.store.store(data(1), text("ddd"))
    let expected = [
      ListedObject(name: "c", size: 2), ListedObject(name: id(1).hex, size: 3),
      ListedObject(name: "k", size: 1),
    ]
    #expect(try opened.store.list("", deleted: false) == expected)
  }

  @Test(arguments: StoreKind.allCases)
  func `a directory that was emptied is there and empty`(kind: StoreKind) throws {
    let opened = try kind.make()
    try opened.store.store(try named("archives/a"), text("x"))
    _ = try opened.store.delete(try named("archives/a"))
    #expect(try opened.store.list("archives", deleted: false)?.isEmpty != false)
  }

  @Test(arguments: StoreKind.allCases, 0...3)
  func `pages of any size make up all objects, in order`(kind: StoreKind, levels: Int) throws {
    let opened = try kind.make(dataLevels: levels)
    let all = (0..<40).map { id($0) }.sorted()
    for number in 0..<40 { try opened.store.store(data(number), text(String(repeating: "x", count: number))) }
    for limit in [1, 7, 39, 40, 41] {
      var found: [ListedID] = []
      while true {
        let page = try #require(
          try opened.store.objects(after: found.last?.id, limit: limit) { Issue.record("foreign: \($0)") })
        #expect(page.count <= limit)
        guard !page.isEmpty else { break }
        found += page
      }
      #expect(found.map(\.id) == all)
      #expect(found.allSatisfy { id($0.size) == $0.id })
    }
  }

  @Test(arguments: StoreKind.allCases, 0...3)
  func `a marker need not exist`(kind: StoreKind, levels: Int) throws {
    let opened = try kind.make(dataLevels: levels)
    for number in 0..<20 { try opened.store.store(data(number), text("x")) }
    let all = (0..<20).map { id($0) }.sorted()
    let markers = [
      ObjectID(0, 0, 0, 0), ObjectID(.max, .max, .max, .max), ObjectID(all[7].word0, 0, 0, all[7].word3 &- 1),
      ObjectID(all[7].word0, .max, 0, 0), ObjectID(all[7].word0 & 0xFF00_0000_0000_0000, 0, 0, 0),
      ObjectID(all[7].word0 | 0x0000_FFFF_FFFF_FFFF, .max, .max, .max), all[7],
    ]
    for marker in markers {
      let page = try opened.store.objects(after: marker, limit: 100) { Issue.record("foreign: \($0)") }
      #expect(page?.map(\.id) == all.filter { $0 > marker }, "after \(marker.hex)")
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `an upload is one object, whatever its pieces`(kind: StoreKind) throws {
    let opened = try kind.make()
    for name in [data(1), try named("cache/chunks.1")] {
      let upload = try opened.store.upload()
      for piece in ["ab", "", "c", "def"] {
        upload.append(Array("<\(piece)>".utf8), 1..<1 + piece.utf8.count)
      }
      #expect(try opened.store.info(name) == nil)
      try opened.store.store(name, .upload(upload))
      #expect(try opened.store.text(name) == "abcdef")
      try opened.store.barrier(durable: true)
      #expect(try opened.store.text(name) == "abcdef")
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `an abandoned upload leaves nothing`(kind: StoreKind) throws {
    let opened = try kind.make()
    let upload = try opened.store.upload()
    upload.append([1, 2, 3], 0..<3)
    upload.abandon()
    try opened.store.barrier(durable: true)
    #expect(try opened.store.list("", deleted: false)?.isEmpty != false)
  }

  @Test(arguments: StoreKind.allCases)
  func `another store's upload is refused`(kind: StoreKind) throws {
    let (opened, other) = (try kind.make(), try (kind == .memory ? StoreKind.simulated : .memory).make())
    let upload = try other.store.upload()
    for name in Self.anyNames where name.namespace != .locks {
      #expect(throws: ServeError.unsupported("This upload belongs to another store.")) {
        try opened.store.store(name, .upload(upload))
      }
    }
  }

  @Test(arguments: StoreKind.allCases, [false, true])
  func `an open object stays as it was`(kind: StoreKind, isPublished: Bool) throws {
    let opened = try kind.make()
    for name in Self.anyNames {
      try opened.store.store(name, text("the first version"))
      if isPublished { try opened.store.barrier(durable: true) }
      let object = try #require(try opened.store.open(name))
      try opened.store.store(name, text("another"))
      try opened.store.barrier(durable: true)
      #expect(try opened.store.delete(name))
      #expect(object.size == 17)
      #expect(try object.prefix(100) == Array("the first version".utf8))
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `an object is read from any place`(kind: StoreKind) throws {
    let opened = try kind.make()
    try opened.store.store(data(1), text("0123456789"))
    for _ in 0..<2 {
      let object = try #require(try opened.store.open(data(1)))
      var buffer: [UInt8] = [0, 0, 0, 0]
      #expect(try object.read(at: 3, into: &buffer) == 4)
      #expect(buffer == Array("3456".utf8))
      #expect(try object.read(at: 8, into: &buffer) == 2)
      #expect(buffer.prefix(2) == Array("89".utf8).prefix(2))
      #expect(try object.read(at: 10, into: &buffer) == 0)
      try opened.store.barrier(durable: true)
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `an object above the limit is not loaded`(kind: StoreKind) throws {
    let opened = try kind.make()
    try opened.store.store(data(1), text("12345"))
    #expect(try opened.store.load(data(1), limit: 5)?.count == 5)
    #expect(throws: ServeError.self) { try opened.store.load(data(1), limit: 4) }
  }

  @Test(arguments: StoreKind.allCases)
  func `nothing can be stored under a soft-deleted repository object's name`(kind: StoreKind) throws {
    let opened = try kind.make()
    #expect(throws: ServeError.argumentValue("an object cannot be stored as deleted")) {
      try opened.store.store(data(1).softDeleted(), text("x"))
    }
  }

  @Test(arguments: StoreKind.allCases)
  func `a destroyed store is empty and had nothing foreign`(kind: StoreKind) throws {
    let opened = try kind.make()
    for name in Self.anyNames { try opened.store.store(name, text("x")) }
    #expect(try opened.store.destroy() == [])
  }

  @Test(arguments: StoreKind.allCases)
  func `more objects than a batch holds are all there`(kind: StoreKind) throws {
    let opened = try kind.make()
    let count = Limits.stagedObjects + 10
    for number in 0..<count { try opened.store.store(data(number), text("\(number)")) }
    for number in stride(from: 0, to: count, by: 97) {
      #expect(try opened.store.text(data(number)) == "\(number)")
    }
    #expect(try opened.store.objects(after: nil, limit: count + 1) { _ in }?.count == count)
  }
}
