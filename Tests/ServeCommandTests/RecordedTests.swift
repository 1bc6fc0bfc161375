import BorgFormat
import Testing

@testable import ServeCommand

/// A command line on which we differ from borg 2.0.0b18 on purpose.
private struct Deviation {
  let line: String
  let ours: String
  let why: String
}

private let forcedOptions =
  "serve level=debug topics=<borg.debug.forced> lockWait=77 umask=27 socket=none paths=</jail> "
  + "repositories= permissions=read-only"

private let allPermissions =
  "serve level=warning topics= lockWait=10 umask=77 socket=none paths= repositories= permissions=all"

private let deviations: [Deviation] = [
  .init(line: #"["--socket", "serve"]"#, ours: "usage", why: "the help, and exit 0, would hide the slip"),
  .init(line: #"["--so", "serve"]"#, ours: "usage", why: "as above"),
  .init(line: #"["serve", "--socket="]"#, ours: "usage", why: "the original serves on stdio"),
  .init(
    line: #"["serve", "--debug-", "x"]"#,
    ours: "serve level=warning topics=<borg.debug.x> lockWait=10 umask=77 socket=none paths= repositories= "
      + "permissions=none",
    why: "unambiguous in versions without --debug-profile"),
  .init(line: #"["--perm", "all", "serve"]"#, ours: allPermissions, why: "serve's options may come first"),
  .init(line: #"["--permissions", "all", "serve"]"#, ours: allPermissions, why: "as above"),
  .init(
    line: #"["--restrict-to-path", "/x", "serve"]"#,
    ours: "serve level=warning topics= lockWait=10 umask=77 socket=none paths=</x> repositories= "
      + "permissions=none",
    why: "as above"),
  .init(line: #"[] <- "borg serve""#, ours: "usage", why: "no help on the protocol's stream"),
  .init(line: #"forced <- "A=1 B=2""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- """#, ours: "usage", why: "as above"),
  .init(line: #"forced <- " ""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- "borg""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- "internal-sftp""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- "borg --version""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- "borg -V""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- "borg --help""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- "borg serve --help""#, ours: "usage", why: "as above"),
  .init(line: #"forced <- "borg serve -h""#, ours: "usage", why: "as above"),
  .init(
    line: #"forced <- "borg list""#, ours: forcedOptions, why: "other commands' arguments are not checked"),
  .init(line: #"forced <- "borg create x""#, ours: forcedOptions, why: "as above"),
  .init(line: #"forced <- "borg --info list""#, ours: forcedOptions, why: "as above"),
]

@Suite struct `Against the recorded original` {
  @Test func `every command line means what it means to the original, or what the table of deviations says`()
  {
    let exceptions = Dictionary(uniqueKeysWithValues: deviations.map { ($0.line, $0.ours) })
    for line in recordedCommandLines {
      let ours = rendering(of: parse(line.arguments, original: line.original))
      #expect(ours == exceptions[line.name] ?? line.outcome, "\(line.name)")
    }
  }

  @Test func `every deviation is a recorded line and really deviates`() {
    let recorded = Dictionary(
      recordedCommandLines.map { ($0.name, $0.outcome) }, uniquingKeysWith: { first, _ in first })
    for deviation in deviations {
      #expect(recorded[deviation.line] != nil, "\(deviation.line)")
      #expect(recorded[deviation.line] != deviation.ours, "\(deviation.line): \(deviation.why)")
    }
  }

  @Test func `texts are cut into the same words as by shlex`() {
    for recorded in recordedShellWords {
      let words = try? ShellWords.split(recorded.text.utf8).map { String(decoding: $0, as: UTF8.self) }
      #expect(words == recorded.words, "\(recorded.text.debugDescription)")
    }
  }
}
