import Glibc
import SystemPackage
import Testing

@testable import Disk

/// `granted/repository` beside `outside`, and links between them.
private final class Grounds {
  let root: TemporaryDirectory
  let granted: GrantedRoots

  init() throws {
    root = try TemporaryDirectory()
    granted = GrantedRoots(paths: [root.path + Array("/granted".utf8)])
    for name in ["granted/repository/inner", "granted/elsewhere/sub", "outside/sub"] {
      try root.directory.makeDirectories(name)
    }
    for name in ["granted/repository/file", "granted/elsewhere/file", "outside/file"] {
      _ = try root.directory.create(name)
    }
  }

  func path(_ name: String) -> [UInt8] { root.path + Array("/\(name)".utf8) }

  func link(_ name: String, to target: [UInt8]) throws {
    let result = unsafe symlink(terminated(target), terminated(path(name)))
    try #require(result == 0)
  }

  func location(_ name: String = "granted/repository") throws -> RepositoryLocation {
    try #require(try granted.admit(path(name)))
  }

  func entries(_ name: String) -> [String]? { try? root.directory.directory(name).entries().sorted() }
}

/// That no name leads out of what is granted, however it is used.
struct ConfinementTests {
  /// Ways in which a link below the repository can lead elsewhere.
  enum Link: CaseIterable { case relative, absolute, throughAnother }

  private func link(_ grounds: Grounds, _ kind: Link, to place: String) throws {
    switch kind {
    case .relative: try grounds.link("granted/repository/link", to: Array("../../\(place)".utf8))
    case .absolute: try grounds.link("granted/repository/link", to: grounds.path(place))
    case .throughAnother:
      try grounds.link("granted/repository/first", to: grounds.path(place))
      try grounds.link("granted/repository/link", to: Array("first".utf8))
    }
  }

  @Test(arguments: Link.allCases)
  func `a link inside a repository that leads out of the roots is not followed by any call`(kind: Link) throws
  {
    let grounds = try Grounds()
    try link(grounds, kind, to: "outside")
    let repository = try grounds.location().open()
    let calls: [(String, () throws -> Void)] = [
      ("open", { _ = try repository.file("link/file") }),
      ("open a directory", { _ = try repository.directory("link") }),
      ("open below", { _ = try repository.directory("link/sub") }),
      ("create", { _ = try repository.create("link/new") }),
      ("make a directory", { try repository.makeDirectory("link/new") }),
      ("make directories", { _ = try repository.makeDirectories("link/new/more") }),
      ("rename to", { try repository.rename("file", to: "link/new", in: repository) }),
      ("rename from", { try repository.rename("link/file", to: "new", in: repository) }),
      ("unlink", { _ = try repository.remove("link/file") }),
      ("remove a directory", { try repository.removeDirectory("link/sub") }),
      ("remove a tree", { try repository.removeTree("link/sub") }),
      ("stat", { _ = try repository.status("link/file") }),
      ("stat the link's target", { _ = try repository.status("link") }),
    ]
    for (name, call) in calls {
      #expect(throws: Errno.permissionDenied, "\(name)") { try call() }
    }
    #expect(grounds.entries("outside") == ["file", "sub"])
    #expect(grounds.entries("granted/repository")?.contains("file") == true)
    // The link itself is the repository's.
    #expect(try repository.remove("link"))
    #expect(grounds.entries("outside") == ["file", "sub"])
  }

  @Test(arguments: Link.allCases)
  func `a link that stays within the roots is followed by every call`(kind: Link) throws {
    let grounds = try Grounds()
    try link(grounds, kind, to: "granted/elsewhere")
    let repository = try grounds.location().open()
    _ = try repository.file("link/file")
    #expect(try repository.directory("link").entries().sorted() == ["file", "sub"])
    _ = try repository.create("link/new")
    try repository.makeDirectories("link/deep/er")
    try repository.rename("link/new", to: "link/deep/er/new", in: repository)
    #expect(try repository.status("link/deep/er/new")?.kind == .file)
    #expect(try repository.status("link")?.kind == .directory)
    try repository.removeTree("link/deep")
    #expect(try repository.remove("link/file"))
    #expect(grounds.entries("granted/elsewhere") == ["sub"])
  }

  @Test func `inside a repository links and dots are followed as ever`() throws {
    let grounds = try Grounds()
    try grounds.link("granted/repository/link", to: Array("inner/../file".utf8))
    let repository = try grounds.location().open()
    #expect(try repository.file("link").size() == 0)
    #expect(try repository.status("link")?.kind == .file)
    #expect(try repository.status("nothing") == nil)
    #expect(throws: Errno.noSuchFileOrDirectory) { try repository.create("no/such") }
    #expect(throws: Errno.fileExists) { try repository.create("file") }
    #expect(throws: Errno.fileExists) { try repository.create("link") }
  }

  @Test func `what becomes a link after it was admitted is not followed`() throws {
    let grounds = try Grounds()
    let location = try grounds.location()
    let missing = try grounds.location("granted/new/repository")
    try grounds.root.directory.rename("granted/repository", to: "granted/moved", in: grounds.root.directory)
    try grounds.link("granted/repository", to: grounds.path("outside"))
    try grounds.link("granted/new", to: grounds.path("outside"))
    #expect(throws: Errno.improperLink) { try location.open() }
    #expect(throws: Errno.improperLink) { try missing.create() }
    #expect(grounds.entries("outside") == ["file", "sub"])
    // Neither is a link that has come into the root's own path.
    try grounds.root.directory.rename("granted", to: "was", in: grounds.root.directory)
    try grounds.link("granted", to: grounds.path("outside"))
    #expect(throws: Errno.self) { try location.open() }
  }

  @Test func `the last element of a root may be missing, and then its parents`() throws {
    let grounds = try Grounds()
    for name in ["a", "b/c/d"] {
      let path = grounds.path(name)
      let location = try #require(try GrantedRoots(repositories: [path]).admit(path))
      #expect(throws: Errno.noSuchFileOrDirectory) { try location.open() }
      #expect(try location.create())
      #expect(try !location.create())
      #expect(try location.open().entries() == [])
      try location.remove()
      #expect(throws: Errno.noSuchFileOrDirectory) { try location.open() }
    }
  }

  @Test func `names that are no text are names`() throws {
    let grounds = try Grounds()
    let odd: [UInt8] = grounds.path("granted/") + [0xff, 0xfe]
    let other: [UInt8] = grounds.path("granted/") + [0xff, 0xfd]
    let granted = GrantedRoots(paths: grounds.granted.paths, repositories: [odd])
    let location = try #require(try granted.admit(odd))
    #expect(try granted.admit(other) == nil)
    #expect(try location.create())
    #expect(try location.open().entries() == [])
    try location.remove()
  }

  @Test(arguments: [
    "file", "inner", "inner/..", "nothing", "link", "link/file", "file/x", "inner/nothing/x", ".", "dangling",
  ])
  func `a kernel without openat2 gives the same answers where no link is to be followed`(name: String) throws
  {
    let grounds = try Grounds()
    try grounds.link("granted/repository/link", to: grounds.path("outside"))
    try grounds.link("granted/repository/dangling", to: Array("nowhere".utf8))
    let calls = SystemCalls()
    let top = try calls.openDirectory(RepositoryPath(resolving: grounds.path("granted/repository")))
    defer { calls.close(top) }
    for opening in [SystemCalls.Opening(.read), .directory, .handle] where !name.contains("..") {
      func outcome(_ open: () throws(Errno) -> RawDescriptor) -> Errno? {
        do {
          calls.close(try open())
          return nil
        } catch {
          return error
        }
      }
      let path = Array(name.utf8)
      let kernels = outcome { () throws(Errno) in
        try calls.open(path, beneath: top, opening, links: .refused)
      }
      let walked = outcome { () throws(Errno) in try calls.walk(path, beneath: top, opening) }
      #expect(kernels == walked, "\(name) \(opening.flags)")
    }
  }
}
