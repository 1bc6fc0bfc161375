import BorgFormat
import REST
import Testing

@Suite struct `The operations` {
  let place: Place
  let service: Service

  init() throws {
    place = try Place()
    service = place.service()
  }

  // MARK: Objects

  @Test func `what is stored can be loaded, looked at, listed and deleted`() throws {
    #expect(try service.call(.post, "/ns/a", "0123456789") == ok())
    let loaded = try service.call(.get, "/ns/a")
    #expect(loaded.status == 200)
    #expect(loaded.text == "0123456789")
    #expect(loaded.fields["content-type"] == "application/octet-stream")
    let info = try service.call(.head, "/ns/a")
    #expect(info.status == 200)
    #expect(info.contentLength == 10)
    #expect(info.body.isEmpty)
    #expect(info.fields["x-borgstore-is-directory"] == "false")
    #expect(try #require(info.fields["x-borgstore-mtime"].flatMap { Double($0) }) > 1_700_000_000)
    #expect(try #require(info.fields["x-borgstore-atime"].flatMap { Double($0) }) > 1_700_000_000)
    #expect(try service.call(.delete, "/ns/a") == ok())
    #expect(try service.call(.get, "/ns/a").status == 404)
    #expect(try service.call(.head, "/ns/a").status == 404)
    #expect(try service.call(.delete, "/ns/a").status == 404)
  }

  @Test(arguments: [0, 1, 131_072, 131_073, 1_000_000])
  func `objects of any size come back as they were`(size: Int) throws {
    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    #expect(try service.call(.post, "/packs/x", bytes: bytes).status == 200)
    #expect(try service.call(.get, "/packs/x").body == bytes)
    #expect(try service.call(.post, "/packs/x", "new").status == 200)
    #expect(try service.call(.get, "/packs/x").text == "new")
  }

  @Test func `every answer forbids to cache it`() throws {
    for target in ["/ns/a", "/?cmd=create", "/"] {
      for method in [RequestHead.Method.get, .head, .post, .delete] {
        #expect(
          try service.call(method, target).fields["cache-control"]
            == "no-store, no-cache, must-revalidate, max-age=0")
      }
    }
  }

  @Test func `a content hash is compared, case and all, before anything else is looked at`() throws {
    let good = sha256("data")
    #expect(try service.call(.post, "/ns/a", "data", ["x-content-hash-sha256": good]).status == 200)
    for wrong in [good.uppercased(), sha256("date"), "x"] {
      let reply = try service.call(.post, "/ns/b", "data", ["x-content-hash-sha256": wrong])
      #expect(reply.status == 422)
      #expect(reply.text == "Content hash verification failed, please retry")
      #expect(try service.call(.post, "/NS/b", "data", ["x-content-hash-sha256": wrong]).status == 422)
    }
    #expect(try service.call(.head, "/ns/b").status == 404)
    #expect(try service.call(.post, "/ns/b", "data", ["x-content-hash-sha256": ""]).status == 200)
    #expect(try service.call(.post, "/ns/c", "data", ["x-content-hash-blake3": "x"]).status == 200)
  }

  @Test(arguments: [
    ("bytes=0-3", 206, "0123", "bytes 0-3/10"), ("bytes=2-", 206, "23456789", "bytes 2-9/10"),
    ("bytes=-4", 206, "6789", "bytes 6-9/10"), ("bytes=5-100", 206, "56789", "bytes 5-9/10"),
    ("bytes=10-12", 206, "", nil), ("bytes=100-200", 206, "", nil), ("bytes=100-", 206, "", nil),
    ("bytes=5-4", 206, "", nil), ("bytes=5-2", 400, nil, nil),
    ("bytes=-0", 206, "0123456789", "bytes 0-9/10"),
    ("bytes= 0-3", 206, "0123", "bytes 0-3/10"), ("bytes=-100", 206, "0123456789", "bytes 0-9/10"),
    ("bytes=0-1,3-4", 200, "0123456789", nil), ("Bytes=0-1", 200, "0123456789", nil),
    ("items=0-1", 200, "0123456789", nil), ("bytes=", 200, "0123456789", nil),
    ("bytes=-", 200, "0123456789", nil),
    ("bytes=a-b", 200, "0123456789", nil), ("bytes=+1-2", 200, "0123456789", nil),
    ("bytes=8-99999999999999999999999", 206, "89", "bytes 8-9/10"),
    ("bytes=99999999999999999999999-", 206, "", nil),
    ("bytes=-99999999999999999999", 206, "0123456789", "bytes 0-9/10"),
    ("bytes=0-3-5", 200, "0123456789", nil), ("", 200, "0123456789", nil),
  ])
  func `a range is taken as clients mean it`(field: String, status: Int, text: String?, range: String?) throws
  {
    _ = try service.call(.post, "/ns/a", "0123456789")
    let reply = try service.call(.get, "/ns/a", "", ["range": field])
    #expect(reply.status == status)
    if let text { #expect(reply.text == text) }
    #expect(reply.fields["content-range"] == range)
    #expect(reply.contentLength == reply.body.count)
  }

  @Test func `a range of an empty object is empty`() throws {
    _ = try service.call(.post, "/ns/a", "")
    for field in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"] {
      let reply = try service.call(.get, "/ns/a", "", ["range": field])
      #expect(reply.status == 206)
      #expect(reply.body.isEmpty)
      #expect(reply.fields["content-range"] == nil)
    }
  }

  @Test func `a move renames, over what is there, and makes directories`() throws {
    _ = try service.call(.post, "/archives/a", "1")
    #expect(try service.call(.post, "/?cmd=move&current=archives%2Fa&new=archives%2Fa.del") == ok())
    #expect(try service.call(.get, "/archives/a").status == 404)
    #expect(try service.call(.get, "/archives/a.del").text == "1")
    _ = try service.call(.post, "/archives/b", "2")
    #expect(try service.call(.post, "/?cmd=move&current=archives/b&new=archives/a.del").status == 200)
    #expect(try service.call(.get, "/archives/a.del").text == "2")
    #expect(try service.call(.post, "/?cmd=move&current=archives/a.del&new=other/deep/x").status == 200)
    #expect(try service.call(.get, "/other/deep/x").text == "2")
    #expect(try service.call(.post, "/?cmd=move&current=nope&new=x").status == 404)
    for query in ["cmd=move", "cmd=move&current=a", "cmd=move&new=a", "cmd=move&current=&new=a"] {
      #expect(try service.call(.post, "/?\(query)").status == 400)
    }
  }

  // MARK: Directories

  @Test func `a listing has names, sizes, kinds and times in the order of names`() throws {
    _ = try service.call(.post, "/ns/b", "12")
    _ = try service.call(.post, "/ns/a.del", "1")
    _ = try service.call(.post, "/ns/.c", "")
    _ = try service.call(.post, "/ns/d/e", "")
    for name in ["x.tmp", "quota.hid", "Upper", "bl ank", "back\\slash"] {
      try place.write("ns/\(name)", "x")
    }
    let reply = try service.call(.get, "/ns/")
    #expect(reply.status == 200)
    #expect(reply.fields["content-type"] == "application/json")
    let entries = try #require(try reply.json().elements)
    #expect(entries.map { $0["name"] } == [".c", "a.del", "b", "d"].map(JSON.string))
    #expect(entries.map { $0["directory"] } == [false, false, false, true].map(JSON.bool))
    #expect(entries.prefix(3).map { $0["size"] } == [0, 1, 2].map(JSON.int))
    for entry in entries {
      for time in ["atime", "mtime"] {
        guard case .double(let seconds)? = entry[time] else {
          Issue.record("\(time) is no number")
          continue
        }
        #expect(seconds > 1_700_000_000)
      }
    }
  }

  @Test func `the root is listed by one slash and by two`() throws {
    for name in ["locks", "archives"] { #expect(try service.call(.post, "/\(name)?cmd=mkdir") == ok()) }
    for target in ["/", "//"] {
      let entries = try #require(try service.call(.get, target).json().elements)
      #expect(entries.map { $0["name"] } == ["archives", "locks"].map(JSON.string))
    }
    #expect(try service.call(.head, "/").fields["x-borgstore-is-directory"] == "true")
    #expect(try service.call(.head, "/locks/").fields["x-borgstore-is-directory"] == "true")
  }

  @Test func `a missing namespace is not an empty one`() throws {
    #expect(try service.call(.get, "/locks/").status == 404)
    #expect(try service.call(.post, "/locks?cmd=mkdir").status == 200)
    #expect(try service.call(.get, "/locks/").text == "[]")
    #expect(try service.call(.delete, "/locks?cmd=rmdir").status == 200)
    #expect(try service.call(.get, "/locks/").status == 404)
    #expect(try service.call(.delete, "/locks?cmd=rmdir").status == 404)
  }

  @Test func `directories are made with their parents and more than once`() throws {
    for _ in 0..<2 { #expect(try service.call(.post, "/packs/ab?cmd=mkdir") == ok()) }
    #expect(try service.call(.get, "/packs/ab/").text == "[]")
    #expect(try service.call(.post, "/?cmd=mkdir").status == 200)
  }

  @Test func `R15 what is done to the wrong kind of thing is a conflict`() throws {
    _ = try service.call(.post, "/d/x", "1")
    _ = try service.call(.post, "/f", "2")
    #expect(try service.call(.get, "/d").status == 409)
    #expect(try service.call(.delete, "/d").status == 409)
    #expect(try service.call(.get, "/f/").status == 409)
    #expect(try service.call(.delete, "/d?cmd=rmdir").status == 409)
    #expect(try service.call(.delete, "/f?cmd=rmdir").status == 409)
    #expect(try service.call(.post, "/f?cmd=mkdir").status == 409)
    #expect(try service.call(.post, "/?cmd=move&current=f&new=d").status == 409)
    #expect(try service.call(.post, "/?cmd=move&current=d&new=e").status == 409)
    #expect(try service.call(.post, "/d", "x").status == 409)
    #expect(try service.call(.post, "/d?cmd=hash").status == 409)
    #expect(try service.call(.post, "/?cmd=gather", "[[\"d\",0,1]]").status == 409)
    // All of it is still there.
    #expect(try service.call(.get, "/d/x").text == "1")
    #expect(try service.call(.get, "/f").text == "2")
  }

  @Test func `below an object there is nothing`() throws {
    _ = try service.call(.post, "/f", "2")
    for method in [RequestHead.Method.get, .head, .delete] {
      #expect(try service.call(method, "/f/x").status == 404)
    }
    #expect(try service.call(.post, "/f/x?cmd=hash").status == 404)
    #expect(try service.call(.post, "/f/x", "").status == 409)
    #expect(try service.call(.get, "/f/x/").status == 404)
  }

  // MARK: Hashes, gather, defrag

  @Test func `an object's hash is told by either algorithm`() throws {
    let bytes = [UInt8](repeating: 9, count: 700_000)
    _ = try service.call(.post, "/ns/a", bytes: bytes)
    let text = String(decoding: bytes, as: UTF8.self)
    for (query, digest) in [
      ("", sha256(text)), ("&algorithm=sha256", sha256(text)), ("&algorithm=SHA256", sha256(text)),
      ("&algorithm=blake3", blake3(text)), ("&algorithm=", sha256(text)),
    ] {
      let reply = try service.call(.post, "/ns/a?cmd=hash\(query)")
      #expect(reply.status == 200)
      #expect(reply.text == digest)
      #expect(reply.fields["content-type"] == "text/plain")
    }
    for algorithm in ["md5", "shake_128", "x"] {
      #expect(try service.call(.post, "/ns/a?cmd=hash&algorithm=\(algorithm)").status == 400)
    }
    #expect(try service.call(.post, "/?cmd=hash").status == 400)
    #expect(try service.call(.post, "/ns/b?cmd=hash").status == 404)
  }

  @Test func `gather joins parts in the order that was asked for`() throws {
    _ = try service.call(.post, "/ns/a", "0123456789")
    _ = try service.call(.post, "/ns/b", "abc")
    let body = "[[\"ns/a\",0,3], [\"ns/b\", 1, 2],\n[\"ns/a\",-3,2],[\"ns/a\",0,3],[\"nope\",0,0]]"
    let reply = try service.call(.post, "/?cmd=gather", body)
    #expect(reply.status == 200)
    #expect(reply.text == "012bc78012")
    #expect(reply.contentLength == 10)
    #expect(reply.fields["content-type"] == "application/octet-stream")
    #expect(try service.call(.post, "/?cmd=gather", "[]").text == "")
    #expect(try service.call(.post, "/packs/?cmd=gather", " [ ] ").status == 200)
  }

  @Test(arguments: [
    ("[[\"ns/a\",8,3]]", 416), ("[[\"ns/a\",-11,1]]", 416), ("[[\"ns/a\",11,1]]", 416),
    ("[[\"ns/a\",9223372036854775807,1]]", 416), ("[[\"ns/a\",-9223372036854775808,1]]", 416),
    ("[[\"ns/a\",1,9223372036854775807]]", 416), ("[[\"ns/b\",0,1]]", 404),
    ("[[\"ns/a\",0,1],[\"ns/b\",0,1]]", 404),
    ("[[\"ns/a\",0,-1]]", 400), ("[[\"ns/a\",true,1]]", 400), ("[[\"ns/a\",1.0,1]]", 400),
    ("[[\"ns/a\",0,null]]", 400), ("[[\"ns/a\",0]]", 400), ("[[\"ns/a\",0,1,2]]", 400), ("[[0,0,1]]", 400),
    ("[{\"ns/a\":0}]", 400), ("[1]", 400), ("{}", 400), ("null", 400), ("", 400), ("[", 400), ("[[]", 400),
    ("[[\"ns/a\",0,1]", 400), ("[[\"ns/a\",0,1],]", 400), ("[,]", 400), ("[[\"ns/a\",0,1]]x", 400),
    ("[[\"ns/a\",0,1]][]", 400), ("[[\"../a\",0,1]]", 400), ("[[\"\",0,1]]", 400), ("[[\"NS/a\",0,0]]", 400),
    ("[[\"ns/a\",0,1] [\"ns/a\",0,1]]", 400), ("[\"a]\",[", 400), ("[[\"a\\\"]\",0,1]]", 404),
  ])
  func `gather says what is wrong with its parts`(body: String, status: Int) throws {
    _ = try service.call(.post, "/ns/a", "0123456789")
    #expect(try service.call(.post, "/?cmd=gather", body).status == status)
    #expect(try service.call(.post, "/?cmd=defrag&target=new", body).status == status)
    #expect(try service.call(.head, "/new").status == 404)
  }

  @Test func `more ranges than the limit are refused`() throws {
    let body = "[" + String(repeating: " ", count: Limits.restRanges) + "]"
    #expect(try service.call(.post, "/?cmd=gather", body).status == 413)
    #expect(try service.call(.post, "/?cmd=defrag&target=x", body).status == 413)
  }

  @Test func `ranges that come to more than can be counted are refused`() throws {
    let entry = "[\"ns/a\",0,10]"
    _ = try service.call(.post, "/ns/a", "0123456789")
    let body = "[" + [String](repeating: entry, count: 10_000).joined(separator: ",") + "]"
    let reply = try service.call(.post, "/?cmd=gather", body)
    #expect(reply.contentLength == 100_000)
    #expect(reply.body.count == 100_000)
  }

  @Test(arguments: [
    ("algorithm=sha256&namespace=packs&levels=1", "packs/\(sha256("bc01").prefix(2))/\(sha256("bc01"))"),
    ("algorithm=blake3&namespace=packs/&levels=1", "packs/\(blake3("bc01").prefix(2))/\(blake3("bc01"))"),
    ("algorithm=sha256&namespace=n", "n/\(sha256("bc01"))"), ("algorithm=sha256", sha256("bc01")),
    ("algorithm=sha256&levels=-1", sha256("bc01")), ("target=ns/t&algorithm=md5&levels=x", "ns/t"),
    ("algorithm=sha256&levels=1", "\(sha256("bc01").prefix(2))/\(sha256("bc01"))"),
  ])
  func `defrag stores what it has gathered and tells its name`(query: String, name: String) throws {
    _ = try service.call(.post, "/ns/a", "0123456789")
    _ = try service.call(.post, "/ns/b", "abc")
    let reply = try service.call(.post, "/?cmd=defrag&\(query)", "[[\"ns/b\",1,2],[\"ns/a\",0,2]]")
    #expect(reply.status == 200)
    #expect(reply.text == name)
    #expect(reply.fields["content-type"] == "text/plain")
    #expect(try service.call(.get, "/\(name)").text == "bc01")
  }

  @Test func `defrag copies what does not fit into memory, over a source too`() throws {
    let bytes = (0..<600_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    _ = try service.call(.post, "/ns/a", bytes: bytes)
    let body = "[[\"ns/a\",1,599999],[\"ns/a\",0,1],[\"ns/a\",0,600000]]"
    #expect(try service.call(.post, "/?cmd=defrag&target=ns/a", body).status == 200)
    #expect(try service.call(.get, "/ns/a").body == bytes[1...] + bytes[..<1] + bytes)
    #expect(try service.call(.post, "/?cmd=defrag&algorithm=sha256", "[]").text == sha256(""))
  }

  @Test(arguments: [
    "", "algorithm=md5", "namespace=packs", "algorithm=sha256&levels=101", "target=../x", "target=x.tmp",
    "algorithm=sha256&namespace=..", "algorithm=sha256&namespace=packs&levels=50",
  ])
  func `defrag needs to know the name`(query: String) throws {
    #expect(try service.call(.post, "/?cmd=defrag&\(query)", "[]").status == 400)
  }

  @Test func `there is no quota`() throws {
    let reply = try service.call(.post, "/?cmd=quota")
    #expect(try reply.json()["limit"] == .int(-1))
    #expect(try reply.json()["usage"] == .int(-1))
    #expect(reply.fields["content-type"] == "application/json")
  }

  // MARK: The rest

  @Test func `a known command is known by its first value, an unknown one is none`() throws {
    #expect(try service.call(.post, "/ns/a?cmd=&cmd=mkdir", "1").status == 200)
    #expect(try service.call(.get, "/ns/a/").status == 200)
    #expect(try service.call(.post, "/ns/b?cmd=what", "1").status == 200)
    #expect(try service.call(.post, "/ns/c?CMD=mkdir", "1").status == 200)
    #expect(try service.call(.post, "/ns/d?cmd=%6dkdir&cmd=move").status == 200)
    #expect(try service.call(.get, "/ns/b?cmd=mkdir").text == "1")
    #expect(try service.call(.get, "/ns/c").text == "1")
    #expect(try service.call(.get, "/ns/d/").text == "[]")
    for target in ["/", "/?cmd=what", "//?cmd="] { #expect(try service.call(.post, target).status == 400) }
    for target in ["/", "/?cmd=what", "/?cmd=rmdir"] {
      #expect(try service.call(.delete, target).status == 400)
    }
  }

  @Test(arguments: [nil, "", "*/*", "application/vnd.x.borgstore.rest.v1, */*", "application/json"])
  func `only the protocol's own type is acceptable`(accept: String?) throws {
    for method in [RequestHead.Method.get, .head, .post, .delete] {
      #expect(try service.call(method, "/ns/a", "x", accept: accept).status == 406)
    }
    #expect(try service.call(.get, "/ns/").status == 404)
  }

  @Test func `other methods are not implemented, whatever is acceptable`() throws {
    for method in ["PUT", "OPTIONS", "get"] {
      #expect(try service.call(.other(method), "/ns/a", "x", accept: nil).status == 501)
    }
  }

  @Test func `a store that is missing is gone, whatever is asked of it`() throws {
    let service = try Place(creating: false).service()
    for (method, target) in [
      (RequestHead.Method.get, "/a"), (.get, "/"), (.head, "/a"), (.head, "/A"), (.post, "/a"),
      (.delete, "/a"),
      (.post, "/a?cmd=mkdir"), (.post, "/a?cmd=hash"), (.post, "/?cmd=quota"), (.post, "/?cmd=gather"),
      (.post, "/?cmd=defrag&target=x"), (.post, "/?cmd=move&current=a&new=b"), (.delete, "/a?cmd=rmdir"),
      (.delete, "/?cmd=destroy"),
    ] { #expect(try service.call(method, target, "[]").status == 410, "\(method) \(target)") }
  }

  @Test(arguments: [
    "..", "a/../b", "a..b", "%2F", "%252F/a", "a%2Fb", "a\0b", "a\\b", "A", "a b", "x.tmp", "x.hid",
    "x.tmp/y", "y/x.hid/z",
    "d/./x", "./x", "d//x", "a\u{1}", "☃", "\u{7F}", String(repeating: "a", count: 101),
  ])
  func `names that alias others or reach elsewhere are refused in every place`(name: String) throws {
    _ = try service.call(.post, "/a", "1")
    let target = "/\(name)"
    // A percent sign with small digits is a name like any other; nothing is decoded in a path.
    for method in [RequestHead.Method.get, .head, .post, .delete] {
      #expect(try service.call(method, target).status == 400)
    }
    #expect(try service.call(.get, target + "/").status == 400)
    #expect(try service.call(.post, target + "?cmd=mkdir").status == 400)
    #expect(try service.call(.post, target + "?cmd=hash").status == 400)
    #expect(try service.call(.delete, target + "?cmd=rmdir").status == 400)
    let encoded = name.utf8.map { "%" + Hex.string([$0]) }.joined()
    #expect(try service.call(.post, "/?cmd=move&current=\(encoded)&new=b").status == 400)
    #expect(try service.call(.post, "/?cmd=move&current=a&new=\(encoded)").status == 400)
    #expect(try service.call(.post, "/?cmd=defrag&target=\(encoded)", "[]").status == 400)
    #expect(try service.call(.post, "/?cmd=defrag&algorithm=sha256&namespace=\(encoded)", "[]").status == 400)
    var quoted: [UInt8] = []
    JSON.append(quoted: name, to: &quoted)
    #expect(
      try service.call(.post, "/?cmd=gather", "[[\(String(decoding: quoted, as: UTF8.self)),0,0]]").status
        == 400)
    #expect(try service.call(.get, "/a").text == "1")
  }

  @Test func `nothing in a path is decoded, all in a query is`() throws {
    #expect(try service.call(.post, "/a%20b", "1").status == 200)
    #expect(try place.read("a%20b") == "1")
    #expect(try service.call(.post, "/?cmd=move&current=a%2520b&new=c%2Bd").status == 200)
    #expect(try service.call(.get, "/c+d").text == "1")
    #expect(try service.call(.get, "/c+d#fragment").text == "1")
    #expect(try service.call(.get, "http://host:1/c+d?x").text == "1")
  }

  @Test func `a refusal is one line of text`() throws {
    let reply = try service.call(.get, "/x\r\ny")
    #expect(reply.status == 400)
    #expect(reply.fields["content-type"] == "text/plain; charset=utf-8")
    #expect(!reply.body.contains(0x0A) && !reply.body.contains(0x0D) && !reply.body.isEmpty)
  }

  private func ok() -> Reply {
    Reply(status: 200, fields: ["cache-control": "no-store, no-cache, must-revalidate, max-age=0"])
  }
}

extension JSON {
  fileprivate var elements: [JSON]? {
    if case .array(let elements) = self { elements } else { nil }
  }
}
