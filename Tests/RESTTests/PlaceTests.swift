import BorgFormat
import Disk
import DiskSimulation
import REST
import SystemPackage
import Testing

/// What makes a directory a repository, for each format.
private let identities: [[String]] = [
  ["config/readme"], ["config/version", "config/id"], ["config/config"],
]

@Suite struct `A directory as a place` {
  @Test func `is created with its parents, and once it holds anything not again`() throws {
    let place = try Place(creating: false, below: "a/b/store")
    let service = place.service()
    #expect(try service.call(.post, "/?cmd=create").status == 200)
    #expect(try service.call(.get, "/").text == "[]")
    #expect(try service.call(.post, "/?cmd=create").status == 200)
    #expect(try service.call(.post, "/quota", "").status == 200)
    #expect(try service.call(.post, "/?cmd=create").status == 409)
  }

  @Test func `is not created over a file, nor over what is hidden`() throws {
    let place = try Place()
    try place.write("quota.hid", "1")
    #expect(try place.service().call(.post, "/?cmd=create").status == 409)
    let file = try Place(creating: false)
    _ = try file.directory.open().create("store")
    #expect(try file.service().call(.post, "/?cmd=create").status == 409)
    #expect(try file.service().call(.get, "/x").status == 410)
  }

  @Test func `R8 leftovers of killed sessions are in nobody's way`() throws {
    let place = try Place()
    try place.write("borg-serve.tmp/session/1", "x")
    try place.write("packs/borg-serve.tmp/session/1", "x")
    let service = place.service()
    #expect(try service.call(.get, "/packs/").text == "[]")
    #expect(try service.call(.delete, "/packs?cmd=rmdir").status == 200)
    #expect(try service.call(.post, "/?cmd=create").status == 200)
    #expect(try service.call(.delete, "/?cmd=destroy").status == 200)
    #expect(try place.directory.open().entries() == [])
  }

  @Test func `R8 an upload that ends early leaves nothing`() throws {
    let place = try Place()
    let whole = request("POST", "/packs/x", String(repeating: "x", count: 300_000))
    #expect(try Conversation(place.service(), whole.utf8.dropLast(5)).end == .closed)
    #expect(try place.service().call(.post, "/archives/\(sha256("a"))", "").status == 200)
    try place.place.close()
    let root = try place.root
    for name in try root.entries() {
      #expect(try !root.directory(name).entries().contains { $0.hasSuffix(".tmp") })
    }
  }

  @Test(arguments: identities)
  func `a repository is destroyed, down to its directory`(_ names: [String]) throws {
    let place = try Place(.repositories)
    for name in names { try place.write(name, "x") }
    for name in [
      "archives/a", "packs/ab/x", "index/x", "keys/x", "locks/x", "cache/x", "data/x", "quota.hid",
    ] {
      try place.write(name, "x")
    }
    try place.write("packs/borg-serve.tmp/s/1", "x")
    #expect(try place.service().call(.post, "/packs/ab/y", "y").status == 200)
    #expect(try place.service().call(.delete, "/?cmd=destroy").status == 200)
    #expect(try place.directory.open().entries() == [])
    #expect(try place.service().call(.get, "/packs/").status == 410)
    #expect(try place.service().call(.delete, "/?cmd=destroy").status == 410)
    #expect(try place.service().call(.post, "/?cmd=create").status == 200)
    #expect(try place.service().call(.get, "/").text == "[]")
  }

  @Test(arguments: [DirectoryPlace.Contents.anything, .repositories])
  func `R9 a directory that is no repository is not destroyed`(contents: DirectoryPlace.Contents) throws {
    for names in [
      ["letter.txt"], ["config/letter"], ["config/version"], ["docs/a/b"], ["packs/ab/x"],
      ["README", "data/0/1"],
      ["config/readme", "letter.txt"], ["config/config", "Photos/a.jpg"], ["config/readme", ".hidden"],
    ] {
      let place = try Place(contents)
      for name in names { try place.write(name, "mine") }
      #expect(try place.service().call(.delete, "/?cmd=destroy").status == 409, "\(names)")
      for name in names { #expect(try place.read(name) == "mine") }
    }
  }

  @Test func `a directory of empty directories is destroyed`() throws {
    let place = try Place()
    for name in ["a/b/c", "a/d", "e"] { try place.root.makeDirectories(name) }
    #expect(try place.service().call(.delete, "/?cmd=destroy").status == 200)
    #expect(try place.directory.open().entries() == [])
  }

  @Test(arguments: [
    ["hostname"], ["config/x"], ["packs/ab/secret"], ["archives/x"], ["cache/x"], ["keys/id_rsa"],
    ["locks/x"],
    ["data/x"], ["Mail/a", "cache/b"], ["config"], ["index/\(sha256(""))"], ["config/readme.txt"],
  ])
  func `R10 a directory that is no repository is not served unless it was granted`(_ names: [String]) throws {
    let place = try Place(.repositories)
    for name in names { try place.write(name, "secret") }
    let service = place.service()
    for name in names {
      let reply = try service.call(.get, "/\(name)")
      #expect(reply.status == 410)
      #expect(!reply.text.contains("secret\n"))
      #expect(try service.call(.post, "/\(name)", "x").status == 410)
      #expect(try service.call(.delete, "/\(name)").status == 410)
      #expect(try place.read(name) == "secret")
    }
    #expect(try service.call(.get, "/").status == 410)
    let granted = DirectoryPlace(
      location: RepositoryLocation(
        path: try RepositoryPath(resolving: place.directory.path.bytes + Array("/store".utf8))),
      label: "store", contents: .anything)
    #expect(try Service(place: granted, permissions: .all).call(.get, "/").status == 200)
  }

  @Test(
    arguments: identities + [
      [], ["keys/\(sha256("k"))", "locks/\(blake3("l"))"], ["config/id"], ["config/manifest"],
    ])
  func `R10 a repository, and what is about to become one, is served`(_ names: [String]) throws {
    let place = try Place(.repositories)
    for name in names { try place.write(name, "x") }
    for name in ["archives", "packs/00", "packs/ff"] { try place.root.makeDirectories(name) }
    let service = place.service()
    #expect(try service.call(.get, "/packs/").status == 200)
    for name in names { #expect(try service.call(.get, "/\(name)").text == "x") }
    #expect(try service.call(.post, "/config/config", "x").status == 200)
  }

  @Test func `R10 a repository with a strange file in it is still served`() throws {
    let place = try Place(.repositories)
    for name in ["config/config", "lost+found/x"] { try place.write(name, "x") }
    #expect(try place.service().call(.get, "/config/config").status == 200)
  }

  @Test(arguments: [DirectoryPlace.Contents.anything, .repositories])
  func `a repository of Borg 1 can be told, and is not changed`(contents: DirectoryPlace.Contents) throws {
    let place = try Place(contents)
    for name in ["config", "README", "data/0/1"] { try place.write(name, "x") }
    let service = place.service()
    let info = try service.call(.head, "/config")
    #expect(info.status == 200)
    #expect(info.fields["x-borgstore-is-directory"] == "false")
    #expect(try service.call(.get, "/config/config").status == 404)
    #expect(try service.call(.get, "/config/readme").status == 404)
    #expect(try service.call(.get, "/packs/").status == 404)
    for (method, target) in [
      (RequestHead.Method.post, "/packs/x"), (.post, "/config"), (.delete, "/config"),
      (.delete, "/data?cmd=rmdir"),
      (.post, "/x?cmd=mkdir"), (.post, "/?cmd=move&current=config&new=x"), (.post, "/?cmd=create"),
      (.delete, "/?cmd=destroy"), (.post, "/?cmd=defrag&target=config"),
    ] { #expect(try service.call(method, target, "[]").status == 409, "\(method) \(target)") }
    #expect(try service.call(.post, "/packs/x", String(repeating: "x", count: 200_000)).status == 409)
    #expect(try place.read("config") == "x")
    #expect(try place.root.entries().sorted() == ["README", "config", "data"])
  }

  @Test func `what was removed and made anew behind the server's back is the new one`() throws {
    let place = try Place()
    let service = place.service()
    #expect(try service.call(.post, "/a", "1").status == 200)
    try place.directory.open().removeTree("store")
    #expect(try service.call(.get, "/a").status == 410)
    #expect(try service.call(.post, "/?cmd=create").status == 200)
    #expect(try service.call(.get, "/a").status == 404)
  }

  @Test func `everything is on disk at the end of a connection`() throws {
    let place = try Place()
    let body = String(repeating: "p", count: 1000)
    let name = "packs/\(sha256(body).prefix(2))/\(sha256(body))"
    #expect(try Conversation(place.service(), request("POST", "/\(name)", body)).end == .closed)
    #expect(try place.read(name) == body)
  }
}
