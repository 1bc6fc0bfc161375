import BorgFormat
import Disk
import Glibc
import ObjectRepository
import Session
import Storage
import Testing

/// Keeps what is reported.
private final class Notebook: Reporter {
  struct Entry: Equatable {
    var level: LogLevel
    var logger: Logger
    var message: String
  }

  private let entries = Monitor<[Entry]>([])
  var warnings: [Entry] { entries.withLock { $0.filter { $0.level >= .warning } } }

  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String) {
    let entry = Entry(level: level, logger: logger, message: message())
    entries.update { $0.append(entry) }
  }

  func progress(_ progress: Progress) {}
}

/// A session and the directory that its repositories are in.
private struct Place {
  let root: TemporaryDirectory
  let notebook = Notebook()
  let cancellation = Cancellation()
  let session: Session

  init(_ configure: (inout SessionConfiguration, TemporaryDirectory) -> Void = { _, _ in }) throws {
    root = try TemporaryDirectory()
    var configuration = SessionConfiguration()
    configure(&configuration, root)
    session = Session(
      configuration: configuration, owner: LockOwner(hostID: "tests@1"), reporter: notebook,
      cancellation: cancellation)
  }

  func path(_ name: String) -> [UInt8] { root.path + Array("/\(name)".utf8) }

  @discardableResult
  func open(
    _ name: String, creates: Bool = false, locks: Bool = true, exclusive: Bool = false, wait: Duration = .zero
  )
    throws(ServeError) -> [UInt8]
  {
    try session.open(
      path: path(name), creates: creates, .init(locks: locks, isExclusive: exclusive, lockWait: wait))
  }

  func link(_ name: String, to target: String) throws {
    let result = unsafe symlink(target, terminated(path(name)))
    try #require(result == 0)
  }

  /// Entries below the directory `name`; nil if it is not there.
  func entries(_ name: String) -> [String]? { try? root.directory.directory(name).entries().sorted() }

  func locks(of repository: String) -> Int? {
    entries("\(repository)/locks")?.filter { !$0.hasSuffix(".tmp") }.count
  }
}

struct SessionTests {
  // MARK: Opening

  @Test func `a repository is created, locked, closed and opened again`() throws {
    let place = try Place()
    let id = try place.open("a/b/repository", creates: true, exclusive: true)
    #expect(id.count == 32)
    #expect(try place.session.repository.id == id)
    #expect(place.locks(of: "a/b/repository") == 1)
    try place.session.close()
    #expect(place.locks(of: "a/b/repository") == 0)
    #expect(try place.open("a/b/repository") == id)
    try place.session.close()
    #expect(place.entries("a/b/repository") == ["cache", "config", "locks"])
  }

  @Test func `without an open repository there is none, and closing is nothing`() throws {
    let place = try Place()
    #expect(throws: ServeError.notOpen) { try place.session.repository }
    #expect(throws: ServeError.notOpen) { try place.session.destroy() }
    #expect(throws: Never.self) { try place.session.close() }
    #expect {
      _ = try place.session.upload()
    } throws: { error in
      error as? ServeError == .notOpen
    }
    place.session.tick()
  }

  @Test func `a second open closes the first`() throws {
    let place = try Place()
    try place.open("first", creates: true, exclusive: true)
    let second = try place.open("second", creates: true, exclusive: true)
    #expect(place.locks(of: "first") == 0)
    #expect(place.locks(of: "second") == 1)
    #expect(try place.session.repository.id == second)
    // The same one again needs its own lock to be gone first.
    #expect(try place.open("second", exclusive: true) == second)
    #expect(place.locks(of: "second") == 1)
    try place.session.close()
    #expect(place.locks(of: "second") == 0)
  }

  @Test func `a second open that is refused leaves the first open`() throws {
    let place = try Place { $0.granted.repositories = [$1.path + Array("/first".utf8)] }
    let id = try place.open("first", creates: true)
    #expect(throws: ServeError.self) { try place.open("second", creates: true) }
    #expect(try place.session.repository.id == id)
    #expect(place.locks(of: "first") == 1)
    try place.session.close()
  }

  @Test(arguments: ["missing", "missing/deeper", "file", "file/below", "empty", "dangling"])
  func `where no repository is, none is opened, and nothing is left`(name: String) throws {
    let place = try Place()
    _ = try place.root.directory.create("file")
    try place.root.directory.makeDirectory("empty")
    try place.link("dangling", to: "nowhere")
    let label = String(decoding: place.path(name), as: UTF8.self)
    #expect(throws: ServeError.repositoryMissing(label)) { try place.open(name) }
    #expect(throws: ServeError.notOpen) { try place.session.repository }
    #expect(try place.root.directory.entries().sorted() == ["dangling", "empty", "file"])
    #expect(place.entries("empty") == [])
  }

  @Test func `a path of any bytes is opened`() throws {
    let place = try Place()
    let path = place.root.path + Array("/\u{1b}{x} %20~".utf8) + [0xff, 0x0a]
    let mode = ObjectRepository.Mode(locks: true, isExclusive: true, lockWait: .zero)
    let id = try place.session.open(path: path, creates: true, mode)
    try place.session.close()
    #expect(try place.session.open(path: path, creates: false, mode) == id)
    try place.session.destroy()
  }

  @Test func `a path that is too long, or holds a NUL, is refused`() throws {
    let place = try Place()
    #expect(throws: ServeError.argumentValue("path is too long")) {
      try place.open(String(repeating: "x/", count: 2100))
    }
    #expect(throws: ServeError.self) { try place.open("a\0b", creates: true) }
    #expect(place.entries(".") == [])
  }

  // MARK: Restrictions

  @Test(arguments: [
    ("jail", true), ("jail/x", true), ("jail/x/y", true), ("jail/./x//y", true), ("jail2", false),
    ("jail2/x", false),
    ("jai", false), ("", false), ("jail/..", false), ("jail/../jail2", false), ("other/../jail/x", true),
    ("jail/out", false), ("jail/out/x", false), ("into", true), ("into/x", true),
    ("jail/out/../jail/x", true),
    ("jail/out/../jail2", false), ("jail/dangling", false), ("jail/inner/..", true),
    ("jail/x/../../jail2", false),
  ])
  func `--restrict-to-path admits what lies within, links and dots resolved`(name: String, isAdmitted: Bool)
    throws
  {
    let place = try Place { $0.granted.paths = [$1.path + Array("/jail/".utf8)] }
    try place.root.directory.makeDirectories("jail/inner")
    try place.root.directory.makeDirectory("other")
    try place.root.directory.makeDirectory("jail2")
    try place.link("jail/out", to: "../other")
    try place.link("jail/dangling", to: "../nowhere")
    try place.link("into", to: "jail")
    let label = String(decoding: place.path(name), as: UTF8.self)
    if isAdmitted {
      #expect(throws: ServeError.repositoryMissing(label)) { try place.open(name) }
    } else {
      #expect(throws: ServeError.pathNotAllowed(label)) { try place.open(name) }
      #expect(throws: ServeError.pathNotAllowed(label)) { try place.open(name, creates: true) }
      #expect(place.entries("jail2") == [] && place.entries("other") == [] && place.entries("nowhere") == nil)
    }
  }

  @Test(arguments: [
    ("one", true), ("one/", true), ("./one/.", true), ("two", true), ("link", true), ("one/below", false),
    ("", false), ("one2", false),
    ("one/..", false), ("one/../two", true), ("three", false),
  ])
  func `--restrict-to-repository admits exactly what it names`(name: String, isAdmitted: Bool) throws {
    let place = try Place { configuration, root in
      configuration.granted.repositories = ["/one", "/link-to-two/"].map { root.path + Array($0.utf8) }
    }
    for name in ["one", "two"] { try place.root.directory.makeDirectory(name) }
    try place.link("link", to: "one")
    try place.link("link-to-two", to: "two")
    let label = String(decoding: place.path(name), as: UTF8.self)
    #expect(throws: isAdmitted ? ServeError.repositoryMissing(label) : .pathNotAllowed(label)) {
      try place.open(name)
    }
  }

  @Test(arguments: [("a/x", true), ("a/y", false), ("b/x", false)])
  func `both kinds of restrictions have to admit a path`(name: String, isAdmitted: Bool) throws {
    let place = try Place { configuration, root in
      configuration.granted.paths = [root.path + Array("/a".utf8)]
      configuration.granted.repositories = ["/a/x", "/b/x"].map { root.path + Array($0.utf8) }
    }
    let label = String(decoding: place.path(name), as: UTF8.self)
    #expect(throws: isAdmitted ? ServeError.repositoryMissing(label) : .pathNotAllowed(label)) {
      try place.open(name)
    }
  }

  @Test func `a restriction that leads in circles admits nothing`() throws {
    let place = try Place { $0.granted.paths = [$1.path + Array("/loop".utf8)] }
    try place.link("loop", to: "loop")
    #expect(throws: ServeError.self) { try place.open("x", creates: true) }
    #expect(place.entries("x") == nil)
  }

  @Test func `a refusal comes behind the restrictions and before anything is done`() throws {
    let place = try Place { configuration, root in
      configuration.granted.paths = [root.path + Array("/a".utf8)]
      configuration.refusal = .unsupported("no")
    }
    #expect(throws: ServeError.unsupported("no")) { try place.open("a/x", creates: true) }
    #expect {
      try place.open("b", creates: true)
    } throws: { error in
      if case .pathNotAllowed? = error as? ServeError { true } else { false }
    }
    #expect(place.entries(".") == [])
  }

  // MARK: Creating

  @Test func `where something is, nothing is created`() throws {
    let place = try Place()
    try place.open("repository", creates: true)
    try place.session.close()
    try place.root.directory.makeDirectories("other/.hidden")
    for name in ["repository", "other"] {
      let label = String(decoding: place.path(name), as: UTF8.self)
      #expect(throws: ServeError.repositoryExists(label)) { try place.open(name, creates: true) }
    }
    #expect(place.entries("other") == [".hidden"])
  }

  @Test func `an empty directory becomes a repository`() throws {
    let place = try Place()
    try place.root.directory.makeDirectory("empty")
    try place.open("empty", creates: true, exclusive: true)
    try place.session.close()
    #expect(place.entries("empty") == ["cache", "config", "locks"])
  }

  @Test(arguments: ["file", "file/below"])
  func `a file in the way is an error and stays`(name: String) throws {
    let place = try Place()
    _ = try place.root.directory.create("file")
    #expect {
      try place.open(name, creates: true)
    } throws: { error in
      if case .system? = error as? ServeError { true } else { false }
    }
    #expect(place.entries(".") == ["file"])
  }

  @Test func `a creation that had arrived when the session was ended is completed`() throws {
    let place = try Place()
    place.cancellation.cancel()
    try place.open("repository", creates: true, exclusive: true, wait: .seconds(9))
    #expect(place.locks(of: "repository") == 1)
    try place.session.close()
    #expect(place.locks(of: "repository") == 0)
    #expect(place.entries("repository") == ["cache", "config", "locks"])
  }

  @Test func `of two that create at once, one does`() throws {
    let place = try Place()
    for round in 0..<20 {
      let path = place.path("\(round)")
      let creating = try (0..<2).map { _ in
        let session = Session(
          configuration: SessionConfiguration(), owner: LockOwner(hostID: "tests@1"), reporter: Notebook(),
          cancellation: Cancellation())
        return try Background {
          let mode = ObjectRepository.Mode(locks: true, isExclusive: true, lockWait: .zero)
          let id = try? session.open(path: path, creates: true, mode)
          try? session.close()
          return id
        }
      }
      let ids = try creating.map { try #require($0.value()) }.compactMap { $0 }
      #expect(ids.count == 1)
      #expect(try place.open("\(round)", exclusive: true) == ids.first)
    }
    try place.session.close()
  }

  @Test(arguments: ["x", "", "-1", "32", "2 "])
  func `a nesting depth that is none is an error at open, and nothing is created`(levels: String) throws {
    let place = try Place { configuration, _ in configuration.dataLevels = levels }
    #expect {
      try place.open("repository", creates: true)
    } throws: { error in
      if case .argumentValue? = error as? ServeError { true } else { false }
    }
    #expect(place.entries(".") == [])
  }

  @Test func `the nesting depth is the environment's`() throws {
    let place = try Place { configuration, _ in configuration.dataLevels = "1" }
    try place.open("repository", creates: true)
    let bytes = [UInt8](repeating: 7, count: 32)
    let found = ObjectID(bytes.span)
    let id = try #require(found)
    try place.session.repository.put(id, ObjectContent([1]), size: 1)
    try place.session.close()
    #expect(place.entries("repository/data/07") == [String(repeating: "07", count: 32)])
  }

  // MARK: Quotas

  @Test func `what would exceed the quota is refused, in the next session too`() throws {
    let place = try Place { configuration, _ in configuration.storageQuota = 2000 }
    try place.open("repository", creates: true)
    let ids = (1...2).compactMap { ObjectID([UInt8](repeating: $0, count: 32).span) }
    let value = [UInt8](repeating: 0, count: 1000)
    try place.session.repository.put(ids[0], ObjectContent(value), size: value.count)
    try place.session.close()
    try place.open("repository")
    #expect {
      try place.session.repository.put(ids[1], ObjectContent(value), size: value.count)
    } throws: { error in
      if case .storageQuotaExceeded(quota: 2000, use: _)? = error as? ServeError { true } else { false }
    }
    #expect(try place.session.repository.delete(ids[0]))
    try place.session.repository.put(ids[1], ObjectContent(value), size: value.count)
    try place.session.close()
  }

  @Test func `a limit that is kept above counts for every repository below, and outlives them`() throws {
    let place = try Place { configuration, directory in
      configuration.granted = GrantedRoots(paths: [directory.path], repositories: [])
    }
    let ledger = try UsageLedger(root: place.root.directory, label: "user")
    try ledger.setLimit(3000)
    let value = [UInt8](repeating: 0, count: 1500)
    let found = ObjectID([UInt8](repeating: 1, count: 32).span)
    let id = try #require(found)
    try place.open("laptop", creates: true, exclusive: true)
    try place.session.repository.put(id, ObjectContent(value), size: value.count)
    try place.open("phone", creates: true)
    #expect(throws: ServeError.self) {
      try place.session.repository.put(id, ObjectContent(value), size: value.count)
    }
    try place.open("laptop", exclusive: true)
    try place.session.destroy()
    try place.open("phone")
    try place.session.repository.put(id, ObjectContent(value), size: value.count)
    try place.session.close()
    #expect(try ledger.usage() < 3000)
    try ledger.close()
  }

  // MARK: Destroying

  @Test func `destroying removes the repository and its directory`() throws {
    let place = try Place()
    try place.open("repository", creates: true, exclusive: true)
    try place.session.destroy()
    #expect(place.entries("repository") == nil)
    #expect(throws: ServeError.notOpen) { try place.session.destroy() }
    #expect(throws: Never.self) { try place.session.close() }
    #expect(place.notebook.warnings.isEmpty)
  }

  @Test func `destroying keeps what is not the repository's, and says so`() throws {
    let place = try Place()
    try place.open("repository", creates: true, exclusive: true)
    try place.root.directory.makeDirectories("repository/photos/2026")
    _ = try place.root.directory.create("repository/a\nb")
    try place.session.destroy()
    #expect(place.entries("repository") == ["a\nb", "photos"])
    #expect(place.entries("repository/photos") == ["2026"])
    #expect(
      place.notebook.warnings == [
        .init(
          level: .warning, logger: .serve,
          message: "Kept what does not belong to the repository: a\u{fffd}b, photos")
      ])
  }

  @Test func `destroying names ten of many foreign things`() throws {
    let place = try Place()
    try place.open("repository", creates: true, exclusive: true)
    for number in 10..<25 { _ = try place.root.directory.create("repository/\(number)") }
    try place.session.destroy()
    let names = (10..<20).map(String.init).joined(separator: ", ")
    #expect(
      place.notebook.warnings.map(\.message) == [
        "Kept what does not belong to the repository: \(names) and 5 more"
      ])
  }

  // MARK: Locks

  @Test func `closing a repository whose lock is gone says so, and closes it`() throws {
    let place = try Place()
    try place.open("repository", creates: true)
    try place.session.repository.breakLock()
    #expect {
      try place.session.close()
    } throws: { error in
      if case .notLocked? = error as? ServeError { true } else { false }
    }
    #expect(throws: ServeError.notOpen) { try place.session.repository }
  }

  @Test func `two sessions of one process do not mistake each other's locks`() throws {
    let place = try Place()
    try place.open("repository", creates: true)
    let other = Session(
      configuration: SessionConfiguration(), owner: LockOwner(hostID: "tests@1"), reporter: Notebook(),
      cancellation: Cancellation())
    let path = place.path("repository")
    _ = try other.open(path: path, creates: false, .init(locks: true, isExclusive: false, lockWait: .zero))
    #expect(place.locks(of: "repository") == 2)
    try place.session.close()
    #expect(place.locks(of: "repository") == 1)
    #expect(throws: ServeError.self) { try place.open("repository", exclusive: true) }
    try other.close()
    #expect(place.locks(of: "repository") == 0)
    try place.open("repository", exclusive: true)
    try place.session.close()
  }

  @Test func `an open without a lock needs none and leaves none`() throws {
    let place = try Place()
    try place.open("repository", creates: true, exclusive: true)
    let other = Session(
      configuration: SessionConfiguration(), owner: LockOwner(hostID: "tests@1"), reporter: Notebook(),
      cancellation: Cancellation())
    let path = place.path("repository")
    _ = try other.open(path: path, creates: false, .init(locks: false, isExclusive: false, lockWait: .zero))
    #expect(place.locks(of: "repository") == 1)
    try other.close()
    #expect(place.locks(of: "repository") == 1)
    try place.session.close()
  }

  // MARK: Ticking

  @Test func `weakness 16: the lock of a client that says nothing is renewed, for a day`() throws {
    let clock = Monitor(Host.now())
    let root = try TemporaryDirectory()
    let session = Session(
      configuration: SessionConfiguration(),
      owner: LockOwner(hostID: "tests@1", now: { clock.withLock { $0 } }),
      reporter: Notebook(), cancellation: Cancellation())
    let mode = ObjectRepository.Mode(locks: true, isExclusive: true, lockWait: .zero)
    _ = try session.open(path: root.path + Array("/repository".utf8), creates: true, mode)
    let lock = { try root.directory.directory("repository/locks").entries().filter { !$0.hasSuffix(".tmp") } }
    var before = try lock()
    // Ticks as far apart as a lock may grow old.
    for quarter in 1..<96 {
      clock.update { $0 += Int64(Limits.lockRefreshSeconds + 1) * 1000 }
      session.tick(at: .now + .seconds((Limits.lockRefreshSeconds) * quarter))
      let after = try lock()
      #expect(after.count == 1 && after != before)
      before = after
    }
    clock.update { $0 += Int64(Limits.lockRefreshSeconds + 1) * 1000 }
    session.tick(at: .now + .seconds(Limits.silentClientSeconds))
    #expect(try lock() == before)
    try session.close()
    #expect(try lock() == [])
  }
}
