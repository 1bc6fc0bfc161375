import BorgFormat
import Disk
import REST
import Testing

private let modes: [Permissions] = [.noDelete, .writeOnly, .readOnly]

@Suite struct `What a client may do` {
  // MARK: Tables

  @Test func `the entry for the nearest directory decides alone`() throws {
    let json = "{\"\": \"lr\", \"packs/aa\": \"lrwWD\", \"packs\": \"\"}"
    let service = try service(json) { place in
      for name in ["packs/bb/x", "other/x"] { try place.write(name, "1") }
    }
    #expect(try service.call(.post, "/packs/aa/x", "1").status == 200)
    #expect(try service.call(.post, "/packs/aa/x", "2").status == 200)
    #expect(try service.call(.get, "/packs/bb/x").status == 403)
    #expect(try service.call(.head, "/packs/bb/x").status == 403)
    #expect(try service.call(.get, "/packs/").status == 403)
    #expect(try service.call(.get, "/other/x").text == "1")
    #expect(try service.call(.get, "/").status == 200)
    #expect(try service.call(.post, "/other/y", "1").status == 403)
    #expect(try service.call(.delete, "/packs/aa/x").status == 200)
  }

  @Test func `an empty table admits everything, one without a default nothing else`() throws {
    for json in ["{}", "null"] {
      #expect(try service(json).call(.post, "/any/thing", "1").status == 200)
    }
    let service = try service("{\"a\": \"lrwWD\"}")
    #expect(try service.call(.post, "/a/x", "1").status == 200)
    #expect(try service.call(.post, "/b/x", "1").status == 403)
    #expect(try service.call(.get, "/").status == 403)
  }

  @Test(arguments: [
    "[]", "1", "\"lr\"", "{\"a\": 1}", "{\"a\": \"lx\"}", "{\"A\": \"l\"}", "{\"../a\": \"l\"}",
  ])
  func `what is no table is refused`(json: String) throws {
    #expect(throws: ServeError.self) { try table(json) }
  }

  @Test(arguments: [
    ("l", "GLIST HEAD"), ("r", "GET HEAD HASH GATHER"), ("w", "NEW MKDIR RMDIR"), ("W", "NEW OVER DEFRAG"),
    ("D", "DELETE RMDIR"), ("", ""), ("wD", "NEW MKDIR RMDIR DELETE MOVE"),
    ("WD", "NEW OVER DEFRAG DELETE RMDIR MOVE"),
  ])
  func `each letter admits what it is for`(letters: String, admitted: String) throws {
    let requests: [(String, RequestHead.Method, String, String)] = [
      ("GLIST", .get, "/n/", ""), ("HEAD", .head, "/n/x", ""), ("GET", .get, "/n/x", ""),
      ("HASH", .post, "/n/x?cmd=hash", ""), ("GATHER", .post, "/?cmd=gather", "[[\"n/x\",0,1]]"),
      ("NEW", .post, "/n/new", "1"), ("OVER", .post, "/n/x", "2"), ("MKDIR", .post, "/n/d?cmd=mkdir", ""),
      ("RMDIR", .delete, "/n/e?cmd=rmdir", ""), ("DELETE", .delete, "/n/x", ""),
      ("MOVE", .post, "/?cmd=move&current=n/x&new=n/y", ""),
      ("DEFRAG", .post, "/?cmd=defrag&target=n/z", "[]"),
    ]
    let expected = Set(admitted.split(separator: " ").map(String.init))
    for (name, method, target, body) in requests {
      let service = try service("{\"n\": \"\(letters)\"}") { place in
        try place.write("n/x", "1")
        try place.root.makeDirectories("n/e")
      }
      #expect(
        try service.call(method, target, body).status == (expected.contains(name) ? 200 : 403), "\(name)")
    }
  }

  @Test func `what is forbidden is so before it is missing, and after it is a name`() throws {
    let service = try service("{\"\": \"l\"}")
    #expect(try service.call(.get, "/nope").status == 403)
    #expect(try service.call(.get, "/NOPE").status == 400)
    #expect(try service.call(.head, "/nope").status == 404)
    #expect(try service.call(.post, "/?cmd=gather", "[[\"nope\",0,1]]").status == 403)
    #expect(try service.call(.post, "/?cmd=gather", "[[\"nope\",0,0]]").status == 403)
    #expect(try service.call(.post, "/?cmd=quota").status == 200)
    #expect(try service.call(.post, "/?cmd=create").status == 403)
    #expect(try service.call(.delete, "/?cmd=destroy").status == 403)
  }

  @Test func `a custom table knows no rules of Borg's`() throws {
    let service = try service("{\"\": \"lrwWD\"}")
    #expect(try service.call(.post, "/packs/any", "1").status == 200)
    #expect(try service.call(.post, "/config/id", "1").status == 200)
    #expect(try service.call(.post, "/config/id", "2").status == 200)
    #expect(try service.call(.post, "/?cmd=move&current=config/id&new=x").status == 200)
  }

  // MARK: Borg's modes

  /// Namespace, then what is admitted there in no-delete, write-only and read-only: list, get, new, overwrite, delete.
  @Test(arguments: [
    ("archives", "lgn", "ln", "lg"), ("packs", "lgn", "ln", "lg"), ("cache", "lgnod", "lgnod", "lg"),
    ("index", "lgnod", "lgnod", "lg"), ("config", "lgno", "lgno", "lg"), ("keys", "lg", "lg", "lg"),
    ("locks", "lgnd", "lgnd", "lgnd"), ("other", "lg", "l", "lg"),
  ])
  func `a mode admits what Borg's table says`(
    namespace: String, noDelete: String, writeOnly: String, readOnly: String
  )
    throws
  {
    for (mode, letters) in zip(modes, [noDelete, writeOnly, readOnly]) {
      let place = try repository()
      let service = place.service(mode)
      let (old, new) = names(namespace)
      try place.write(old.name, "old")
      func expect(_ letter: Character, _ reply: Reply, _ other: Int = 403) {
        #expect(reply.status == (letters.contains(letter) ? 200 : other), "\(mode) \(namespace) \(letter)")
      }
      expect("l", try service.call(.get, "/\(namespace)/"))
      expect("l", try service.call(.head, "/\(old.name)"))
      expect("g", try service.call(.get, "/\(old.name)"))
      expect("g", try service.call(.post, "/\(old.name)?cmd=hash"))
      expect("n", try service.call(.post, "/\(new.name)", new.content))
      if namespace == "cache" || namespace == "config" {
        expect("o", try service.call(.post, "/\(old.name)", "other"))
      }
      expect("d", try service.call(.delete, "/\(old.name)"))
    }
  }

  @Test(arguments: modes)
  func `no mode but all creates or destroys`(mode: Permissions) throws {
    let place = try repository()
    #expect(try place.service(mode).call(.delete, "/?cmd=destroy").status == 403)
    #expect(try Place(creating: false).service(mode).call(.post, "/?cmd=create").status == 403)
    #expect(try place.read("config/readme") == "x")
  }

  @Test(arguments: ["config/id", "config/version", "config/readme", "config/config"])
  func `R11 what makes a repository never changes`(name: String) throws {
    for mode in [Permissions.noDelete, .writeOnly] {
      let place = try Place()
      let service = place.service(mode)
      #expect(try service.call(.post, "/\(name)", "first").status == 200)
      #expect(try service.call(.post, "/\(name)", "first").status == 200)
      #expect(try service.call(.post, "/\(name)", "other").status == 403)
      #expect(try service.call(.post, "/\(name)", "").status == 403)
      #expect(try service.call(.post, "/\(name)", String(repeating: "x", count: 200_000)).status == 403)
      #expect(try service.call(.post, "/?cmd=defrag&target=\(name)", "[]").status == 403)
      #expect(try place.read(name) == "first")
      #expect(try place.service(.all).call(.post, "/\(name)", "other").status == 200)
    }
  }

  @Test(arguments: ["packs", "index", "locks"])
  func `R18 an object named by its hash has to have it`(namespace: String) throws {
    let place = try repository()
    let service = place.service(.noDelete)
    for size in [10, 200_000] {
      let content = String(repeating: "c", count: size)
      for hash in [sha256(content), blake3(content)] {
        let name = namespace == "packs" ? "packs/\(hash.prefix(2))/\(hash)" : "\(namespace)/\(hash)"
        let field = ["x-content-hash-sha256": sha256(content + "x")]
        #expect(try service.call(.post, "/\(name)", content + "x", field).status == 422)
        #expect(try service.call(.head, "/\(name)").status == 404)
        #expect(try service.call(.post, "/\(name)", content).status == 200)
        #expect(try service.call(.get, "/\(name)").text == content)
        // In the mode all the client is trusted.
        #expect(try place.service(.all).call(.post, "/\(name)", content + "x").status == 200)
      }
    }
  }

  @Test(arguments: [10, 200_000])
  func `storing a whole object again succeeds, and one that is damaged is mended`(size: Int) throws {
    let place = try repository()
    let content = String(repeating: "c", count: size)
    let name = "packs/\(sha256(content).prefix(2))/\(sha256(content))"
    for mode in [Permissions.noDelete, .writeOnly] {
      #expect(try place.service(mode).call(.post, "/\(name)", content).status == 200)
      try place.place.close()
      let before = try place.root.status(name)
      #expect(try place.service(mode).call(.post, "/\(name)", content).status == 200)
      try place.place.close()
      #expect(try place.root.status(name)?.inode == before?.inode)
      for damage in ["", String(content.dropLast()), String(content.dropLast()) + "d"] {
        try place.write(name, damage)
        #expect(try place.service(mode).call(.post, "/\(name)", content).status == 200)
        try place.place.close()
        #expect(try place.read(name) == content)
      }
    }
    #expect(try place.service(.readOnly).call(.post, "/\(name)", content).status == 403)
  }

  @Test func `the entry of an archive is empty, and may be stored again`() throws {
    let service = try repository().service(.noDelete)
    let name = "archives/\(sha256("a"))"
    #expect(try service.call(.post, "/\(name)", "x").status == 422)
    for _ in 0..<2 { #expect(try service.call(.post, "/\(name)").status == 200) }
  }

  @Test(arguments: [
    "packs/x", "packs/ab/x", "index/x", "locks/x", "archives/x", "cache/x", "config/x",
    "config/space-reserve.",
    "config/space-reserve.x", "config/id/x", "cache/referenced-by-archive.x", "config/manifest.del",
  ])
  func `only names that Borg uses are stored`(name: String) throws {
    let place = try repository()
    for mode in [Permissions.noDelete, .writeOnly] {
      let reply = try place.service(mode).call(.post, "/\(name)", "x")
      #expect(reply.status == 403)
      #expect(reply.text.contains(name))
    }
    let hash = sha256("x")
    // Of another directory than the one that its name says.
    #expect(try place.service(.noDelete).call(.post, "/packs/00/\(hash)", "x").status == 403)
    #expect(try place.service(.noDelete).call(.post, "/archives/\(hash).del", "").status == 403)
  }

  @Test func `names that Borg uses are stored`() throws {
    let service = try repository().service(.noDelete)
    for name in [
      "config/manifest", "config/defaults", "config/space-reserve.0", "config/space-reserve.12",
      "cache/chunkindex-invalid", "cache/checked-packs", "cache/referenced-by-archive.\(sha256(""))",
    ] { #expect(try service.call(.post, "/\(name)", "x").status == 200) }
    for name in ["packs/ab", "index", "locks", "archives", "cache", "packs"] {
      let expected = 200
      #expect(try service.call(.post, "/\(name)?cmd=mkdir").status == expected)
    }
    for name in ["packs/abc", "packs/AB", "index/ab", "locks/x", "archives/x"] {
      #expect(try [400, 403].contains(service.call(.post, "/\(name)?cmd=mkdir").status))
    }
  }

  @Test func `archives are not deleted, softly or otherwise`() throws {
    let place = try repository()
    let name = "archives/\(sha256("a"))"
    try place.write(name)
    for mode in modes {
      #expect(try place.service(mode).call(.post, "/?cmd=move&current=\(name)&new=\(name).del").status == 403)
      #expect(try place.service(mode).call(.post, "/?cmd=move&current=cache/x&new=cache/y").status == 403)
    }
    #expect(try place.service(.all).call(.post, "/?cmd=move&current=\(name)&new=\(name).del").status == 200)
    #expect(try place.service(.all).call(.post, "/?cmd=move&current=\(name).del&new=\(name)").status == 200)
  }

  @Test func `defrag needs to overwrite, and its result to be what its name says`() throws {
    let place = try repository()
    let service = place.service(.noDelete)
    let pack = "packs/\(sha256("pack").prefix(2))/\(sha256("pack"))"
    #expect(try service.call(.post, "/\(pack)", "pack").status == 200)
    let body = "[[\"\(pack)\",0,4]]"
    for query in ["algorithm=sha256&namespace=packs&levels=1", "target=\(pack)", "algorithm=sha256"] {
      #expect(try service.call(.post, "/?cmd=defrag&\(query)", body).status == 403)
    }
    for algorithm in ["sha256", "blake3"] {
      #expect(
        try service.call(.post, "/?cmd=defrag&algorithm=\(algorithm)&namespace=index", body).status == 200)
    }
    #expect(try service.call(.post, "/?cmd=defrag&target=index/\(sha256("x"))", body).status == 422)
    #expect(try service.call(.post, "/?cmd=defrag&target=index/x", body).status == 403)
    // Nor does it read what may not be read.
    #expect(
      try place.service(.writeOnly).call(.post, "/?cmd=defrag&algorithm=sha256&namespace=index", body).status
        == 403)
  }

  // MARK: Parts

  private func table(_ json: String) throws -> PermissionTable {
    let bytes = Array(json.utf8)
    return try PermissionTable(JSON(parsing: bytes.span))
  }

  private func service(_ json: String, prepare: (Place) throws -> Void = { _ in }) throws -> Service {
    let place = try Place()
    try prepare(place)
    return Service(place: KeptPlace(kept: place), table: try table(json))
  }

  private func repository() throws -> Place {
    let place = try Place()
    try place.write("config/readme", "x")
    return place
  }

  private func names(_ namespace: String) -> (
    old: (name: String, content: String), new: (name: String, content: String)
  ) {
    let hash = sha256("new")
    switch namespace {
    case "archives": return (("archives/\(sha256("old"))", ""), ("archives/\(hash)", ""))
    case "packs": return (("packs/ab/old", ""), ("packs/\(hash.prefix(2))/\(hash)", "new"))
    case "cache": return (("cache/checked-packs", ""), ("cache/chunkindex-invalid", ""))
    case "config": return (("config/manifest", ""), ("config/defaults", "x"))
    case "other": return (("other/old", ""), ("other/new", "x"))
    default: return (("\(namespace)/old", ""), ("\(namespace)/\(hash)", "new"))
    }
  }
}
