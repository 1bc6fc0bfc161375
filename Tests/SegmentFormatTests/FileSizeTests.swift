import BorgFormat
import Testing

@Suite struct FileSizeTests {
  /// The texts are those of borg 1.4.5's `format_file_size`.
  @Test(
    arguments: [
      (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (40135, "40.13 kB"), (20235, "20.23 kB"),
      (999_994, "999.99 kB"),
      (999_996, "1.00 MB"), (70_960_000_000, "70.96 GB"), (100_000_000_000_000_000, "100.00 PB"),
      (-455, "-455 B"),
      (-90_200, "-90.20 kB"),
    ] as [(Int, String)])
  func `sizes look as Borg prints them`(bytes: Int, text: String) {
    #expect(FileSize.text(bytes) == text)
  }

  @Test func `no number of bytes is too large`() {
    #expect(FileSize.text(.max) == "9.22 EB")
    #expect(FileSize.text(.min) == "-9.22 EB")
  }
}
