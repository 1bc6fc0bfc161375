import BorgFormat
import Disk
import DiskSimulation
import ObjectRepository
import Storage
import Testing

@Suite struct CheckTests {
  private static let checkpoint = RepositoryLayout.checkpointName(for: nil)

  private static func request(repairs: Bool = false, for duration: Duration = .zero)
    -> ObjectRepository.CheckRequest
  {
    ObjectRepository.CheckRequest(repairs: repairs, maxDuration: duration, checkpoint: checkpoint)
  }

  private let store = MemoryStore()
  private let opener: Opener
  private let repository: ObjectRepository

  init() throws {
    opener = Opener(creatingIn: store)
    repository = try opener.open()
  }

  private var lines: [String] { opener.reporter.repositoryLines }

  private func put(_ number: Int, _ bytes: [UInt8]) throws {
    try repository.put(id(number), ObjectContent(bytes), size: bytes.count)
  }

  private static let tooSmall = [UInt8](repeating: 0, count: 23)
  private static let shortMeta = Array(object(data: "").prefix(26))
  private static let shortData = Array(object(data: "data").dropLast())
  private static var badMeta: [UInt8] {
    var bytes = object(data: "data")
    bytes[24] ^= 1
    return bytes
  }
  private static var badData: [UInt8] {
    var bytes = object(data: "data")
    bytes[28] ^= 1
    return bytes
  }
  private static var badBoth: [UInt8] {
    var bytes = badMeta
    bytes[28] ^= 1
    return bytes
  }

  @Test func `a repository without data has nothing to check, and keeps its index`() throws {
    #expect(try repository.check(Self.request()))
    #expect(
      lines == [
        "info Starting full repository check", "info Starting from beginning.",
        "info Checked 0 repository objects, 0 errors.",
        "info Finished full repository check, no problems found.",
      ])
    #expect(try store.names(.cache) == ["chunks.a283591f50db914c"])
  }

  @Test func `a sound repository is found so, and gets a new index`() throws {
    for number in 0..<5 { try put(number, object(data: "object \(number)")) }
    try store.store(try named("cache/chunks.0000000000000000"), text("old"))
    try store.store(try named("cache/other"), text("kept"))
    try store.store(Self.checkpoint, text("data/x"))
    #expect(try repository.check(Self.request()))
    #expect(
      lines == [
        "info Starting full repository check", "info Starting from beginning.",
        "info Finished repository check.", "info Checked 5 repository objects, 0 errors.",
        "info Finished full repository check, no problems found.",
      ])
    let expected = try index(of: (0..<5).map { id($0) })
    #expect(try store.names(.cache) == [String(expected.name.text.dropFirst(6)), "other"].sorted())
    #expect(try store.load(expected.name, limit: 10000) == expected.bytes)
  }

  @Test func `the index has the original's bytes`() throws {
    for byte in [1, 7] as [UInt64] {
      let word = byte * 0x0101_0101_0101_0101
      let bytes = object(data: "\(byte)")
      try repository.put(ObjectID(word, word, word, word), ObjectContent(bytes), size: bytes.count)
    }
    #expect(try repository.check(Self.request()))
    let name = try named("cache/chunks.5e45eeb50b8de8e3")
    let bytes = try #require(try store.load(name, limit: 1000))
    #expect(bytes.count == 377)
    let entry = [UInt8](repeating: 7, count: 32) + [0, 0, 0, 1, 0, 0, 0, 0]
    #expect(Array(bytes.suffix(40)) == entry)
    #expect(try store.names(.cache) == ["chunks.5e45eeb50b8de8e3"])
  }

  @Test func `what is wrong is said in the original's words, in order of ids`() throws {
    let bad = [Self.tooSmall, Self.shortMeta, Self.badMeta, Self.shortData, Self.badData, Self.badBoth]
    let ids = (0..<7).map { id($0) }.sorted()
    for (id, bytes) in zip(ids, bad + [object(data: "sound") + [9, 9]]) {
      try repository.put(id, ObjectContent(bytes), size: bytes.count)
    }
    #expect(try !repository.check(Self.request()))
    let prefix = ids.map { "error Repo object \($0.hex) is corrupted:" }
    #expect(
      lines == [
        "info Starting full repository check", "info Starting from beginning.",
        "\(prefix[0]) too small.", "\(prefix[1]) metadata size incorrect.",
        "\(prefix[2]) metadata does not match checksum.", "\(prefix[3]) data size incorrect.",
        "\(prefix[4]) data does not match checksum.", "\(prefix[5]) metadata does not match checksum.",
        "\(prefix[5]) data does not match checksum.", "info Finished repository check.",
        "info Checked 7 repository objects, 6 errors.",
        "error Finished full repository check, errors found.",
      ])
    // Without repair the index names the corrupted ones as well: they are there.
    #expect(try store.indexes().values.map { Set($0) } == [Set(ids)])
  }

  @Test func `a repair tests again, deletes, and leaves them out of the index`() throws {
    try put(1, object(data: "sound"))
    try put(2, Self.badBoth)
    #expect(try repository.check(Self.request(repairs: true)))
    let prefix = "error Repo object \(id(2).hex) is corrupted:"
    #expect(
      lines == [
        "info Starting full repository check", "info Starting from beginning.",
        "\(prefix) metadata does not match checksum.", "\(prefix) data does not match checksum.",
        "\(prefix) metadata does not match checksum.", "\(prefix) data does not match checksum.",
        "\(prefix) reloading did not help, deleting it!", "info Finished repository check.",
        "info Checked 2 repository objects, 1 errors.",
        "info Finished full repository check, errors found and repaired.",
      ])
    #expect(store.info(StoreName(id: id(2))) == nil)
    #expect(try store.indexes().values.map { $0 } == [[id(1)]])
  }

  /// A repository whose store changes an object between the first and the second look at it.
  private func repairing(_ change: @escaping @Sendable (MemoryStore) -> Void) throws -> (Opener, Bool) {
    try put(1, Self.badData)
    var changing = InterceptedStore(base: store)
    let looks = Monitor(0)
    let store = store
    changing.onOpen = { name in
      guard name == StoreName(id: id(1)) else { return }
      looks.update { $0 += 1 }
      if looks.withLock({ $0 == 2 }) { change(store) }
    }
    let opener = Opener(changing)
    return (opener, try opener.open().check(Self.request(repairs: true)))
  }

  @Test func `an object that is sound at the second look is kept`() throws {
    let (opener, result) = try repairing { store in
      try? store.store(StoreName(id: id(1)), ObjectContent(object(data: "sound")))
    }
    #expect(result)
    let prefix = "error Repo object \(id(1).hex) is corrupted:"
    #expect(
      opener.reporter.repositoryLines.dropFirst(2).prefix(2) == [
        "\(prefix) data does not match checksum.",
        "\(prefix) reloading did help, inconsistent behaviour detected!",
      ])
    #expect(store.info(StoreName(id: id(1))) != nil)
  }

  @Test func `an object that vanished before the second look is named`() throws {
    let (opener, result) = try repairing { store in _ = store.delete(StoreName(id: id(1))) }
    #expect(result)
    let prefix = "error Repo object \(id(1).hex) is corrupted:"
    #expect(
      opener.reporter.repositoryLines.dropFirst(2).prefix(2) == [
        "\(prefix) data does not match checksum.", "\(prefix) existing object vanished.",
      ])
  }

  @Test func `an object that vanished since the listing is not counted`() throws {
    try put(1, object(data: "a"))
    try put(2, object(data: "b"))
    var vanishing = InterceptedStore(base: store)
    let store = store
    vanishing.onOpen = { name in
      if name == StoreName(id: id(1)) { _ = store.delete(name) }
    }
    let opener = Opener(vanishing)
    #expect(try opener.open().check(Self.request()))
    #expect(opener.reporter.repositoryLines.contains("info Checked 1 repository objects, 0 errors."))
  }

  // MARK: Partial checks

  @Test func `a partial check cannot repair`() {
    #expect(throws: ServeError.argumentValue("a partial check cannot repair")) {
      try repository.check(Self.request(repairs: true, for: .seconds(1)))
    }
    #expect(lines == [])
  }

  @Test func `partial checks go on where the last one ended, and come to an end`() throws {
    let ids = (0..<3).map { id($0) }.sorted()
    for number in 0..<3 { try put(number, object(data: "\(number)")) }
    let before = try store.indexes()
    for round in 0..<3 {
      #expect(try repository.check(Self.request(for: .nanoseconds(1))))
      #expect(try store.text(Self.checkpoint) == "data/\(ids[round].hex)")
    }
    #expect(try repository.check(Self.request(for: .nanoseconds(1))))
    func round(_ first: String, _ number: Int) -> [String] {
      [
        "info Starting partial repository check", first,
        "info Finished partial repository check, last key checked is data/\(ids[number].hex).",
        "info Checked 1 repository objects, 0 errors.",
        "info Finished partial repository check, no problems found.",
      ]
    }
    var expected = round("info Starting from beginning.", 0)
    for number in 1..<3 {
      expected += round("info Skipping to keys after data/\(ids[number - 1].hex).", number)
    }
    expected += [
      "info Starting partial repository check", "info Skipping to keys after data/\(ids[2].hex).",
      "info Finished repository check.", "info Checked 0 repository objects, 0 errors.",
      "info Finished partial repository check, no problems found.",
    ]
    #expect(lines == expected)
    #expect(store.info(Self.checkpoint) == nil)
    #expect(try store.indexes() == before)
  }

  @Test func `a partial check with enough time checks everything`() throws {
    for number in 0..<3 { try put(number, object(data: "\(number)")) }
    #expect(try repository.check(Self.request(for: .seconds(3600))))
    #expect(lines.contains("info Checked 3 repository objects, 0 errors."))
    #expect(store.info(Self.checkpoint) == nil)
  }

  @Test func `a partial check that finds errors says so`() throws {
    try put(1, Self.tooSmall)
    #expect(try !repository.check(Self.request(for: .seconds(3600))))
    #expect(lines.last == "error Finished partial repository check, errors found.")
  }

  // MARK: On the way

  @Test func `progress rises to its end`() throws {
    for number in 0..<200 { try put(number, object(data: "")) }
    #expect(try repository.check(Self.request()))
    let records = opener.reporter.progress
    #expect(records.count > 50)
    #expect(Set(records.map(\.operation)).count == 1)
    #expect(records.map(\.current) == records.map(\.current).sorted())
    #expect(records.allSatisfy { $0.messageID == "check.objects" && $0.total == 1000 })
    for record in records.dropLast() {
      #expect(record.message == "Checking repository objects \(record.current / 10)%")
      #expect(!record.isFinished)
    }
    let end = try #require(records.last)
    #expect(end.isFinished && end.current == 1000 && end.message.isEmpty)
  }

  @Test func `a cancelled check stops, with its progress ended`() throws {
    try put(1, object(data: "x"))
    opener.cancellation.cancel()
    #expect(throws: ServeError.cancelled) { try repository.check(Self.request()) }
    #expect(opener.reporter.progress.map(\.isFinished) == [true])
    #expect(try store.names(.cache) == ["chunks.a283591f50db914c"])
  }

  @Test func `foreign files in data are named and do not end a check`() throws {
    let disk = SimulatedDisk()
    try disk.install([1], at: "data/README")
    let opener = Opener(creatingIn: posixStore(on: disk))
    let repository = try opener.open()
    let bytes = object(data: "x")
    try repository.put(id(1), ObjectContent(bytes), size: bytes.count)
    #expect(try repository.check(Self.request()))
    let warning = RecordingReporter.Line(
      level: .warning, logger: .serve, message: "Ignoring data/README, which is no repository object.")
    #expect(opener.reporter.lines.contains(warning))
    #expect(opener.reporter.repositoryLines.contains("info Checked 1 repository objects, 0 errors."))
  }

  @Test func `objects larger than a block are checked whole`() throws {
    let large = String(repeating: "x", count: Limits.readBlock * 2 + 17)
    try put(1, object(data: large))
    var bad = object(data: large)
    bad[bad.count - 1] ^= 1
    try put(2, bad)
    #expect(try !repository.check(Self.request()))
    #expect(lines.contains("error Repo object \(id(2).hex) is corrupted: data does not match checksum."))
    #expect(lines.contains("info Checked 2 repository objects, 1 errors."))
  }
}
