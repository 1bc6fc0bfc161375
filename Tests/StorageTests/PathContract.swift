import BorgFormat
import Disk
import DiskSimulation
import Storage
import SystemPackage
import Testing

/// What stores promise to those that address them by paths.
@Suite struct PathContract {
  static let kinds: [StoreKind] = [.directory, .confined, .simulated, .simulatedNetwork]
  static let digest = String(repeating: "ab", count: 32)
  static let pack = "packs/ab/\(digest)"
  static let texts = [
    pack, "archives/a", "config/config", "index/\(digest)", "locks/\(digest)", "any/where/at/all", "top",
  ]

  private static func make(_ kind: StoreKind) throws -> (store: PosixStore, owner: StoreKind.Opened) {
    let opened = try kind.make()
    guard let store = opened.store as? PosixStore else { throw ServeError.unsupported("not a PosixStore") }
    return (store, opened)
  }

  private static func code(_ body: () throws(ServeError) -> Void) -> Errno? {
    do {
      try body()
    } catch {
      guard case .system(let failure) = error else { return nil }
      return Errno(rawValue: failure.code)
    }
    return nil
  }

  @Test(arguments: kinds) func `an object of any path is read at once, and after a barrier`(kind: StoreKind)
    throws
  {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    for text in Self.texts { try store.store(path(text), content("of \(text)"), keepsOther: false) }
    for isPublished in [false, true] {
      for text in Self.texts {
        #expect(try store.read(path(text)) == "of \(text)")
        let entry = try store.entry(path(text))
        #expect(entry?.size == "of \(text)".utf8.count)
        #expect(entry?.isDirectory == false)
        #expect(entry?.name == text.split(separator: "/").last.map(String.init))
      }
      if !isPublished { try store.barrier(durable: true) }
    }
  }

  @Test(arguments: kinds) func `what is not there is missing, below an object too`(kind: StoreKind) throws {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    try store.store(path("a/file"), content("x"), keepsOther: false)
    for text in ["nothing", "packs/ab/\(Self.digest)", "a/nothing", "a/file/below"] {
      #expect(try store.entry(path(text)) == nil)
      #expect(try store.read(path(text)) == nil)
      #expect(try !store.remove(path(text)))
      #expect(try !store.move(path(text), to: path("b")))
      if text != "a/file/below" { #expect(try store.entries(in: path(text)) == nil) }
    }
    #expect(Self.code { () throws(ServeError) in _ = try store.entries(in: path("a/file")) } == .notDirectory)
  }

  @Test(arguments: kinds) func `an object arrives piece by piece`(kind: StoreKind) throws {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    for text in Self.texts {
      let upload = try store.upload(for: path(text))
      upload.append(Array("12345".utf8), 0..<2)
      upload.append(Array("12345".utf8), 2..<5)
      try store.store(path(text), .upload(upload), keepsOther: false)
      #expect(try store.read(path(text)) == "12345")
    }
    let abandoned = try store.upload(for: path("never"))
    abandoned.append(Array("1".utf8), 0..<1)
    abandoned.abandon()
    #expect(try store.entry(path("never")) == nil)
  }

  @Test(arguments: kinds) func `a listing has what is directly there, in order, and nothing hidden`(
    kind: StoreKind
  ) throws {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    for text in ["n/b", "n/a.del", "n/c/below", "n/.dot", Self.pack] {
      try store.store(path(text), content(text), keepsOther: false)
    }
    #expect(try store.entries(in: path("n"))?.map(\.name) == [".dot", "a.del", "b", "c"])
    #expect(try store.entries(in: path("n"))?.map(\.isDirectory) == [false, false, false, true])
    #expect(try store.entries(in: path("packs/ab"))?.map(\.name) == [Self.digest])
    #expect(try store.entries(in: .root)?.map(\.name) == ["n", "packs"])
    try store.makeDirectory(path("empty"))
    #expect(try store.entries(in: path("empty")) == [])
  }

  @Test(arguments: kinds) func `directories are made with their parents, and removed when empty`(
    kind: StoreKind
  ) throws {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    try store.makeDirectory(path("a/b/c"))
    try store.makeDirectory(path("a/b/c"))
    #expect(try store.entry(path("a/b/c"))?.isDirectory == true)
    #expect(
      Self.code { () throws(ServeError) in _ = try store.removeDirectory(path("a")) } == .directoryNotEmpty)
    #expect(try store.removeDirectory(path("a/b/c")))
    #expect(try !store.removeDirectory(path("a/b/c")))
    try store.store(path("file"), content("x"), keepsOther: false)
    #expect(Self.code { () throws(ServeError) in try store.makeDirectory(path("file")) } == .fileExists)
    #expect(
      Self.code { () throws(ServeError) in _ = try store.removeDirectory(path("file")) } == .notDirectory)
  }

  @Test(arguments: kinds) func `a namespace in which only this session stages can be removed`(kind: StoreKind)
    throws
  {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    try store.makeDirectory(path("packs/ab"))
    try store.store(path(Self.pack), content("x"), keepsOther: false)
    #expect(
      Self.code { () throws(ServeError) in _ = try store.removeDirectory(path("packs/ab")) }
        == .directoryNotEmpty)
    #expect(try store.remove(path(Self.pack)))
    #expect(try store.removeDirectory(path("packs/ab")))
    #expect(try store.removeDirectory(path("packs")))
    try store.store(path(Self.pack), content("again"), keepsOther: false)
    try store.barrier(durable: true)
    #expect(try store.read(path(Self.pack)) == "again")
  }

  @Test(arguments: kinds) func `a directory that is gone is not waited for`(kind: StoreKind) throws {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    try store.store(path("a/empty"), content(""), keepsOther: false)
    try store.makeDirectory(path("m/deep/er"))
    #expect(try store.removeDirectory(path("m/deep/er")))
    #expect(try store.removeDirectory(path("m/deep")))
    try store.store(path("b"), content("x"), keepsOther: false)
    try store.makeDirectory(path("m/deep/er"))
    #expect(try store.removeDirectory(path("m/deep/er")))
    try store.barrier(durable: true)
  }

  @Test(arguments: kinds) func `a move renames over what is there`(kind: StoreKind) throws {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    for text in [Self.pack, "archives/a", "archives/b"] {
      try store.store(path(text), content(text), keepsOther: false)
    }
    #expect(try store.move(path("archives/a"), to: path("archives/b")))
    #expect(try store.read(path("archives/b")) == "archives/a")
    #expect(try store.move(path(Self.pack), to: path("new/place")))
    #expect(try store.read(path("new/place")) == Self.pack)
    #expect(try store.read(path(Self.pack)) == nil)
    #expect(
      Self.code { () throws(ServeError) in _ = try store.move(path("archives"), to: path("elsewhere")) }
        == .isDirectory)
    #expect(
      Self.code { () throws(ServeError) in _ = try store.move(path("archives/b"), to: path("new")) } != nil)
  }

  @Test(arguments: kinds) func `a directory is never taken for an object`(kind: StoreKind) throws {
    let (store, owner) = try Self.make(kind)
    defer { withExtendedLifetime(owner) {} }
    try store.makeDirectory(path(Self.pack))
    try store.makeDirectory(path("archives/a"))
    for text in [Self.pack, "archives/a"] {
      #expect(
        Self.code { () throws(ServeError) in try store.store(path(text), content("x"), keepsOther: false) }
          == .isDirectory)
      #expect(Self.code { () throws(ServeError) in _ = try store.open(path(text)) } == .isDirectory)
      #expect(Self.code { () throws(ServeError) in _ = try store.remove(path(text)) } == .isDirectory)
    }
    // None of it has spoilt the store for others.
    try store.store(path("packs/cd/\(String(repeating: "cd", count: 32))"), content("x"), keepsOther: false)
    try store.barrier(durable: true)
  }

  @Test func `an object whose place was taken by a directory is given up, and nothing else`() throws {
    let disk = SimulatedDisk()
    let store = PosixStore(root: disk.root(), label: "test")
    try store.store(path(Self.pack), content("x"), keepsOther: false)
    _ = try disk.root().makeDirectories(Self.pack)
    try store.store(
      path("packs/cd/\(String(repeating: "cd", count: 32))"), content("whole"), keepsOther: false)
    try store.barrier(durable: true)
    #expect(try store.read(path("packs/cd/\(String(repeating: "cd", count: 32))")) == "whole")
    try store.close()
  }

  @Test(arguments: texts.indices) func `R7 what was acknowledged is there after a power cut`(last: Int) throws {
    for seed in UInt64(0)..<20 {
      var options = SimulatedDisk.Options()
      options.syncsWhole = seed.isMultiple(of: 2)
      let disk = SimulatedDisk(options)
      let store = PosixStore(root: disk.root(), label: "test")
      let stored = Self.texts[...last]
      for text in stored { try store.store(path(text), content("of \(text)"), keepsOther: false) }
      let after = PosixStore(root: disk.powerCut(seed: seed).root(), label: "test")
      for text in stored where !text.hasPrefix("locks/") {
        #expect(try after.read(path(text)) == "of \(text)", "seed \(seed)")
      }
      try? store.close()
    }
  }

  @Test func `what was acknowledged is seen by others at once, though its server never ends`() throws {
    let directory = try TemporaryDirectory()
    let store = PosixStore(root: try directory.open(), label: "test")
    let other = PosixStore(root: try directory.open(), label: "other")
    for text in Self.texts {
      try store.store(path(text), content("of \(text)"), keepsOther: false)
      #expect(try other.read(path(text)) == "of \(text)")
    }
    try other.close()
    try store.close()
  }

  @Test func `what a pack is replaced by is durable before it is removed`() throws {
    for seed in UInt64(0)..<40 {
      var options = SimulatedDisk.Options()
      options.syncsWhole = seed.isMultiple(of: 2)
      let disk = SimulatedDisk(options)
      let store = PosixStore(root: disk.root(), label: "test")
      let (old, new) = try (path(Self.pack), path("packs/cd/\(String(repeating: "cd", count: 32))"))
      try store.store(old, content("kept"), keepsOther: false)
      try store.barrier(durable: true)
      try store.store(new, content("kept"), keepsOther: false)
      _ = try store.remove(old)
      let after = PosixStore(root: disk.powerCut(seed: seed).root(), label: "test")
      #expect(try after.read(old) == "kept" || after.read(new) == "kept", "seed \(seed)")
      try? store.close()
    }
  }

  @Test func `an index is never durable before the packs that it names`() throws {
    for seed in UInt64(0)..<60 {
      var options = SimulatedDisk.Options()
      options.syncsWhole = seed.isMultiple(of: 2)
      let disk = SimulatedDisk(options)
      let store = PosixStore(root: disk.root(), label: "test")
      disk.losePower(after: Int(seed % 30) + 5)
      var isAcknowledged = false
      do {
        try store.store(path(Self.pack), content("pack"), keepsOther: false)
        try store.store(path("index/\(Self.digest)"), content("index"), keepsOther: false)
        isAcknowledged = true
      } catch {}
      let after = PosixStore(root: disk.powerCut(seed: seed).root(), label: "test")
      let index = try after.read(path("index/\(Self.digest)"))
      #expect(!isAcknowledged || index == "index", "seed \(seed)")
      if index != nil {
        #expect(index == "index", "seed \(seed)")
        #expect(try after.read(path(Self.pack)) == "pack", "seed \(seed)")
      }
      try? store.close()
    }
  }

  @Test(arguments: [
    "..", "a/../b", "a..b", "/a", "a/", "a//b", "./a", "a/.", "A", "a b", "a\\b", "a\u{1}b", "é", "x.tmp",
    "x.tmp/y", "y/x.hid",
    String(repeating: "a", count: 101),
  ]) func `a name that aliases another or reaches elsewhere is refused`(name: String) {
    #expect(throws: ServeError.self) { try StorePath(parsing: name) }
  }

  @Test func `only what is named by a digest is staged`() throws {
    #expect(try path(Self.pack).durability == .staged)
    #expect(try path("packs/ab/name").durability == .immediate)
    #expect(try path("data/ab/cd/\(Self.digest)").durability == .staged)
    #expect(try path("locks/\(Self.digest)").durability == .fleeting)
    #expect(try path("index/\(Self.digest)").durability == .immediate)
    #expect(try path(Self.digest).durability == .immediate)
  }
}

private func path(_ text: String) throws(ServeError) -> StorePath { try StorePath(parsing: text) }

private func content(_ string: String) -> ObjectContent { ObjectContent(Array(string.utf8)) }

extension PosixStore {
  /// A small object as text, or nil.
  fileprivate func read(_ path: StorePath) throws(ServeError) -> String? {
    guard let object = try open(path) else { return nil }
    return String(decoding: try object.prefix(object.size), as: UTF8.self)
  }
}
