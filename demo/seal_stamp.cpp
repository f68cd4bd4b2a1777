// seal_stamp: draws round red company seals as PNG, the way a bank scans them from the signature
// card.
//
//   seal_stamp --out DIR [--seed S] [--first N] [--count N] [--version V]
//
// writes one PNG per seal into DIR, and DIR/manifest.tsv with number, version, holder, kind, code
// and file of each. The same seed, number and version give the same picture on any machine with the
// same fonts; another version of a number is the seal that its holder registers after the first one
// was lost or replaced: same name, new code, cut and ink.
//
// A picture is made in two steps. cairo and pango draw a clean mask at twice the size: ring, name
// along the arc, star, line, code. Then every pixel of the result looks the mask up with a little
// displacement (worn rubber) and is dyed by an ink density (pressure, dry spots, pinholes), so that
// no two impressions are alike.
//
// Places are invented on purpose: no seal drawn here is one that exists.

#include <pango/pangocairo.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <numbers>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using std::numbers::pi;
using namespace std::string_literals;

constexpr int image_size = 384; // 44 mm at about 220 dpi
constexpr int mask_scale = 2;   // the mask is drawn larger and sampled down
constexpr int mask_size = image_size * mask_scale;
constexpr const char *font_families = "AR PL SungtiL GB, Noto Serif CJK SC, AR PL UMing CN, "
                                      "SimSun, WenQuanYi Zen Hei, Noto Sans CJK SC";

// ---------------------------------------------------------------------------------------------
// Numbers that are the same everywhere (the distributions of <random> differ between libraries)

constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// std::lerp keeps promises about corner cases that cost half of the drawing time
constexpr double blend(double a, double b, double t) { return a + (b - a) * t; }

class Random {
public:
  explicit Random(std::uint64_t seed) : state_{mix(seed)} {}

  std::uint64_t next() { return mix(state_++); }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double between(double low, double high) { return low + (high - low) * unit(); }
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }
  bool chance(double p) { return unit() < p; }

private:
  std::uint64_t state_;
};

// Smooth noise in [-1, 1]: random values on a grid, blended between its points.
class Noise {
public:
  Noise(std::uint64_t seed, double cell) : seed_{mix(seed)}, scale_{1 / cell} {}

  double at(double x, double y) const {
    x *= scale_;
    y *= scale_;
    const double fx = std::floor(x), fy = std::floor(y);
    const auto ix = static_cast<std::int64_t>(fx), iy = static_cast<std::int64_t>(fy);
    const double u = ease(x - fx), v = ease(y - fy);
    const double top = blend(corner(ix, iy), corner(ix + 1, iy), u);
    const double bottom = blend(corner(ix, iy + 1), corner(ix + 1, iy + 1), u);
    return blend(top, bottom, v);
  }

private:
  static double ease(double t) { return t * t * (3 - 2 * t); }

  double corner(std::int64_t x, std::int64_t y) const {
    const auto h = mix(seed_ ^ (static_cast<std::uint64_t>(x) * 0x8da6b343u) ^
                       (static_cast<std::uint64_t>(y) * 0xd8163841u));
    return static_cast<double>(h >> 11) * 0x1p-52 - 1;
  }

  std::uint64_t seed_;
  double scale_;
};

// ---------------------------------------------------------------------------------------------
// Who the seal belongs to

constexpr std::array places = {"云麓", "青岚", "澜湾", "星渚", "棠岭", "雪浦", "霁川", "鹿泽",
                               "望岳", "松漪", "白榆", "兰皋", "玉衡", "瑶光", "沧禾", "梧溪"};
constexpr std::array areas = {"市", "市", "市", "县", ""};
constexpr std::array brand_first = {"恒", "瑞", "鼎", "晟", "弘", "嘉", "盛",
                                    "泰", "德", "汇", "祥", "润", "华"};
constexpr std::array brand_second = {"源", "达", "和", "信", "通", "丰",
                                     "安", "远", "博", "诚", "康"};
constexpr std::array trades = {
    "科技",     "贸易",     "建筑工程", "医疗器械", "食品",     "物流",       "进出口",
    "纺织",     "精密机械", "新材料",   "环保设备", "文化传媒", "汽车零部件", "农业发展",
    "电子商务", "印刷包装", "化工",     "家具",     "餐饮管理", "软件技术",   "园林绿化"};
constexpr std::array forms = {"有限公司", "有限公司", "有限责任公司", "股份有限公司",
                              "集团有限公司"};
constexpr std::array kinds = {"财务专用章", "合同专用章", "",
                              "业务专用章", "财务专用章", "人事专用章"};

struct Seal {
  int number;
  int version;
  std::uint64_t look; // seed of everything that is seen but not read
  std::string holder;
  std::string kind; // the line below the star, empty for the plain company seal
  std::string code; // 13 digits; regions starting with 99 do not exist
};

// Distinct numbers give distinct holders: the number walks through all combinations in a shuffled
// order (a step that shares no factor with their count visits each once; one near the golden
// section keeps neighbours unlike).
Seal describe(std::uint64_t seed, int number, int version) {
  constexpr std::uint64_t step = 29'717;
  constexpr std::uint64_t combinations =
      places.size() * brand_first.size() * brand_second.size() * trades.size();
  static_assert(std::gcd(step, combinations) == 1);
  std::uint64_t c =
      (static_cast<std::uint64_t>(number) * step + mix(seed) % combinations) % combinations;
  const auto pick = [&c](const auto &list) {
    const auto *word = list[c % list.size()];
    c /= list.size();
    return std::string{word};
  };
  const auto place = pick(places), first = pick(brand_first), second = pick(brand_second),
             trade = pick(trades);

  Random who{mix(seed) + static_cast<std::uint64_t>(number)};
  const auto area = areas[static_cast<std::size_t>(who.below(areas.size()))];
  const auto form = forms[static_cast<std::size_t>(who.below(forms.size()))];
  const auto kind = kinds[static_cast<std::size_t>(who.below(kinds.size()))];

  Seal seal{number,
            version,
            mix(mix(seed) ^ mix((static_cast<std::uint64_t>(number) << 20) +
                                static_cast<std::uint64_t>(version))),
            place + area + first + second + trade + form,
            kind,
            {}};
  char code[16];
  std::snprintf(code, sizeof code, "99%04d%05d%02d", static_cast<int>(mix(seed + 7) % 10000),
                number % 100000, version % 100);
  seal.code = code;
  return seal;
}

// ---------------------------------------------------------------------------------------------
// The mask: a clean drawing, in millimetres around the centre

struct Release {
  void operator()(cairo_surface_t *p) const { cairo_surface_destroy(p); }
  void operator()(cairo_t *p) const { cairo_destroy(p); }
  void operator()(PangoFontDescription *p) const { pango_font_description_free(p); }
  void operator()(PangoLayout *p) const { g_object_unref(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Release>;

std::vector<std::string> characters(const std::string &text) {
  std::vector<std::string> result;
  for (const char *p = text.c_str(); *p;) {
    const char *next = g_utf8_next_char(p);
    result.emplace_back(p, next);
    p = next;
  }
  return result;
}

class Drawing {
public:
  Drawing()
      : surface_{cairo_image_surface_create(CAIRO_FORMAT_A8, mask_size, mask_size)},
        cairo_{cairo_create(surface_.get())}, layout_{pango_cairo_create_layout(cairo_.get())} {
    constexpr double pixels_per_mm = mask_size / 44.0;
    cairo_translate(cairo_.get(), mask_size / 2.0, mask_size / 2.0);
    cairo_scale(cairo_.get(), pixels_per_mm, pixels_per_mm);
    cairo_set_line_join(cairo_.get(), CAIRO_LINE_JOIN_ROUND);
  }

  void ring(double radius, double width) {
    cairo_new_path(cairo_.get());
    cairo_set_line_width(cairo_.get(), width);
    cairo_arc(cairo_.get(), 0, 0, radius, 0, 2 * pi);
    cairo_stroke(cairo_.get());
  }

  void star(double radius, double y) {
    const double inner = radius * std::sin(pi / 10) / std::sin(7 * pi / 10);
    cairo_new_path(cairo_.get());
    for (int i = 0; i < 10; ++i) {
      const double r = i % 2 ? inner : radius, a = -pi / 2 + i * pi / 5;
      cairo_line_to(cairo_.get(), r * std::cos(a), y + r * std::sin(a));
    }
    cairo_close_path(cairo_.get());
    cairo_fill(cairo_.get());
  }

  // One character, `width` wide and `height` high, its box centred at the origin of the current
  // matrix. `weight` thickens the strokes, as seal cutters do with a book face.
  void glyph(const std::string &character, double width, double height, double weight) {
    constexpr double em = 10;
    const Owned<PangoFontDescription> font{pango_font_description_from_string(font_families)};
    pango_font_description_set_absolute_size(font.get(), em * PANGO_SCALE);
    pango_layout_set_font_description(layout_.get(), font.get());
    pango_layout_set_text(layout_.get(), character.c_str(), -1);
    if (pango_layout_get_unknown_glyphs_count(layout_.get()) != 0)
      throw std::runtime_error{"no installed font has the character " + character +
                               " (Debian: fonts-arphic-gbsn00lp or fonts-wqy-zenhei)"};
    PangoRectangle ink, box;
    pango_layout_get_extents(layout_.get(), &ink, &box);
    const double middle_y =
        g_ascii_isdigit(character[0])
            ? ink.y + ink.height / 2.0
            : pango_layout_get_baseline(layout_.get()) - 0.36 * em * PANGO_SCALE;
    cairo_save(cairo_.get());
    cairo_scale(cairo_.get(), width / em, height / em);
    cairo_translate(cairo_.get(), -(box.x + box.width / 2.0) / PANGO_SCALE,
                    -middle_y / PANGO_SCALE);
    cairo_new_path(cairo_.get());
    pango_cairo_layout_path(cairo_.get(), layout_.get());
    cairo_restore(cairo_.get());
    cairo_set_line_width(cairo_.get(), weight);
    cairo_fill_preserve(cairo_.get());
    cairo_stroke(cairo_.get());
  }

  // Characters along a circle, centred on `middle` (radians, 0 is to the right, clockwise), each
  // upright to the radius: heads outward, or inward when they stand on the lower half.
  void arc_text(const std::string &text, double radius, double middle, double step, double width,
                double height, double weight, bool heads_inward = false) {
    const auto chars = characters(text);
    const double direction = heads_inward ? -1 : 1;
    double angle = middle - direction * step * (static_cast<double>(chars.size()) - 1) / 2;
    for (const auto &c : chars) {
      cairo_save(cairo_.get());
      cairo_rotate(cairo_.get(), angle);
      cairo_translate(cairo_.get(), radius, 0);
      cairo_rotate(cairo_.get(), direction * pi / 2);
      glyph(c, width, height, weight);
      cairo_restore(cairo_.get());
      angle += direction * step;
    }
  }

  void line_text(const std::string &text, double y, double step, double width, double height,
                 double weight) {
    const auto chars = characters(text);
    double x = -step * (static_cast<double>(chars.size()) - 1) / 2;
    for (const auto &c : chars) {
      cairo_save(cairo_.get());
      cairo_translate(cairo_.get(), x, y);
      glyph(c, width, height, weight);
      cairo_restore(cairo_.get());
      x += step;
    }
  }

  cairo_surface_t *finish() {
    cairo_surface_flush(surface_.get());
    return surface_.get();
  }

private:
  Owned<cairo_surface_t> surface_;
  Owned<cairo_t> cairo_;
  Owned<PangoLayout> layout_;
};

void draw_mask(Drawing &drawing, const Seal &seal, Random &random) {
  const double ring_width = random.between(1.0, 1.35);
  drawing.ring(20, ring_width);
  const bool inner_ring = random.chance(0.3);
  if (inner_ring)
    drawing.ring(20 - ring_width / 2 - 0.75, 0.22);
  const double rim = 20 - ring_width / 2 - (inner_ring ? 1.05 : 0);

  // The longer the name, the narrower its characters, as on real seals; and there is an end to the
  // arc.
  const auto length = static_cast<double>(characters(seal.holder).size());
  const double height = random.between(5.0, 5.5) - (length > 15 ? 0.3 : 0);
  const double radius = rim - 0.7 - height / 2;
  const double longest = seal.kind.empty() ? 246 : 230;
  const double step = std::min(longest / (length - 1), random.between(20.5, 22.5)) * pi / 180;
  const double width = std::min(height * 0.78, radius * step * 0.92);
  drawing.arc_text(seal.holder, radius, -pi / 2, step, width, height,
                   random.between(0.07, 0.085) * width);

  drawing.star(random.between(6.3, 7.0), seal.kind.empty() ? 0 : -0.9);
  if (!seal.kind.empty())
    drawing.line_text(seal.kind, 9.2, random.between(3.1, 3.35), 3.05, random.between(4.0, 4.4),
                      random.between(0.2, 0.26));

  const double code_size = 2.5;
  drawing.arc_text(seal.code, rim - 0.55 - code_size * 0.36, pi / 2,
                   random.between(4.6, 5.0) * pi / 180, code_size * 0.9, code_size, 0.12, true);
}

// ---------------------------------------------------------------------------------------------
// The impression: rubber, pressure and ink

class Mask {
public:
  explicit Mask(cairo_surface_t *surface)
      : data_{cairo_image_surface_get_data(surface)}, stride_{cairo_image_surface_get_stride(
                                                          surface)} {}

  // Coverage at a point of the finished image, between the four nearest points of the mask.
  double at(double x, double y) const {
    x = std::clamp(x * mask_scale, 0.0, mask_size - 2.0);
    y = std::clamp(y * mask_scale, 0.0, mask_size - 2.0);
    const int ix = static_cast<int>(x), iy = static_cast<int>(y);
    const double u = x - ix, v = y - iy;
    return blend(blend(point(ix, iy), point(ix + 1, iy), u),
                 blend(point(ix, iy + 1), point(ix + 1, iy + 1), u), v);
  }

private:
  double point(int x, int y) const { return data_[y * stride_ + x] / 255.0; }

  const unsigned char *data_;
  int stride_;
};

// Shades from paper to full ink. Light passes the ink layer twice, so each channel falls
// exponentially with density: thin ink is pink-orange, thick ink a deep red. Few shades keep the
// files small.
constexpr int shade_count = 20;

std::array<std::uint32_t, shade_count> make_shades(Random &random) {
  const std::array ink = {random.between(0.76, 0.86), random.between(0.08, 0.14),
                          random.between(0.08, 0.17)};
  std::array<std::uint32_t, shade_count> shades{};
  for (int i = 0; i < shade_count; ++i) {
    const double density = static_cast<double>(i) / (shade_count - 1);
    std::uint32_t rgb = 0;
    for (const double channel : ink)
      rgb = (rgb << 8) |
            static_cast<std::uint32_t>(std::lround(255 * std::pow(channel, density * 1.1)));
    shades[static_cast<std::size_t>(i)] = rgb;
  }
  return shades;
}

Owned<cairo_surface_t> press(const Mask &mask, const Seal &seal, Random &random) {
  const auto shades = make_shades(random);
  const double turn = random.between(-5, 5) * pi / 180, sine = std::sin(turn),
               cosine = std::cos(turn);
  const double shift_x = random.between(-3, 3), shift_y = random.between(-3, 3);
  const double lean = random.between(0, 2 * pi), lean_depth = random.between(0.05, 0.28);
  const double lean_x = std::cos(lean) * lean_depth * 2 / image_size,
               lean_y = std::sin(lean) * lean_depth * 2 / image_size;
  const double ink_amount = random.between(0.86, 1.02), dryness = random.between(0.15, 0.5);

  const Noise warp_x{seal.look ^ 1, 60}, warp_y{seal.look ^ 2, 60}, rough_x{seal.look ^ 3, 3.1},
      rough_y{seal.look ^ 4, 3.1}, cloud{seal.look ^ 5, 70}, mottle{seal.look ^ 6, 11},
      grain{seal.look ^ 7, 2.3};

  Owned<cairo_surface_t> result{
      cairo_image_surface_create(CAIRO_FORMAT_RGB24, image_size, image_size)};
  auto *data = cairo_image_surface_get_data(result.get());
  const int stride = cairo_image_surface_get_stride(result.get());
  constexpr double middle = image_size / 2.0;
  for (int y = 0; y < image_size; ++y) {
    auto *row = reinterpret_cast<std::uint32_t *>(data + static_cast<std::ptrdiff_t>(y) * stride);
    for (int x = 0; x < image_size; ++x) {
      const double dx = x - middle - shift_x, dy = y - middle - shift_y;
      double sx = middle + dx * cosine + dy * sine, sy = middle - dx * sine + dy * cosine;
      row[x] = shades[0];
      if (dx * dx + dy * dy > middle * middle * 0.94)
        continue;
      // Ink is squeezed to the edge of each stroke: less where the mask is full all around.
      const double around =
          (mask.at(sx - 3, sy) + mask.at(sx + 3, sy) + mask.at(sx, sy - 3) + mask.at(sx, sy + 3)) /
          4;
      if (around + mask.at(sx, sy) == 0)
        continue;
      sx += 1.1 * warp_x.at(x, y) + 0.55 * rough_x.at(x, y);
      sy += 1.1 * warp_y.at(x, y) + 0.55 * rough_y.at(x, y);
      const double cover = mask.at(sx, sy);
      if (cover <= 0.02)
        continue;
      const double pressure =
          1 - lean_depth / 2 + lean_x * dx + lean_y * dy + 0.10 * cloud.at(x, y);
      const double blotch = mottle.at(x, y);
      const double starved =
          0.6 * blotch + 0.75 * grain.at(x, y) - 0.55 + dryness * (1.1 - pressure);
      double density = ink_amount * pressure * (1 - 0.13 * around) + 0.05 * blotch -
                       2.56 * dryness * std::max(0.0, starved);
      density = std::clamp(density, 0.06, 1.0) * cover;
      row[x] = shades[static_cast<std::size_t>(std::lround(density * (shade_count - 1)))];
    }
  }
  cairo_surface_mark_dirty(result.get());
  return result;
}

void draw(const Seal &seal, const std::filesystem::path &file) {
  Random random{seal.look};
  Drawing drawing;
  draw_mask(drawing, seal, random);
  const auto image = press(Mask{drawing.finish()}, seal, random);
  const auto status = cairo_surface_write_to_png(image.get(), file.c_str());
  if (status != CAIRO_STATUS_SUCCESS)
    throw std::runtime_error{"could not write " + file.string() + ": " +
                             cairo_status_to_string(status)};
}

// ---------------------------------------------------------------------------------------------

struct Options {
  std::filesystem::path out;
  std::uint64_t seed = 1;
  int first = 1;
  int count = 240;
  int version = 1;
};

template <class T>
T number_of(std::string_view option, std::string_view text, T least) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least)
    throw std::invalid_argument{std::string{option} + " wants a number, not \"" +
                                std::string{text} + "\""};
  return value;
}

Options parse(int argc, char **argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (i + 1 == argc)
      throw std::invalid_argument{"missing value after " + std::string{name}};
    const std::string_view value = argv[++i];
    if (name == "--out")
      options.out = value;
    else if (name == "--seed")
      options.seed = number_of<std::uint64_t>(name, value, 0);
    else if (name == "--first")
      options.first = number_of(name, value, 1);
    else if (name == "--count")
      options.count = number_of(name, value, 1);
    else if (name == "--version")
      options.version = number_of(name, value, 1);
    else
      throw std::invalid_argument{"unknown option " + std::string{name}};
  }
  if (options.out.empty())
    throw std::invalid_argument{"--out DIR is missing"};
  return options;
}

void run(const Options &options) {
  std::filesystem::create_directories(options.out);
  std::ofstream manifest{options.out / "manifest.tsv"};
  for (int number = options.first; number < options.first + options.count; ++number) {
    const auto seal = describe(options.seed, number, options.version);
    char file[40];
    std::snprintf(file, sizeof file, "seal-%05d-v%d.png", number, options.version);
    draw(seal, options.out / file);
    manifest << seal.number << '\t' << seal.version << '\t' << seal.holder << '\t'
             << (seal.kind.empty() ? "公章"s : seal.kind) << '\t' << seal.code << '\t' << file
             << '\n';
  }
  manifest.close();
  if (!manifest)
    throw std::runtime_error{"could not write " + (options.out / "manifest.tsv").string()};
}

} // namespace

int main(int argc, char **argv) {
  try {
    run(parse(argc, argv));
  } catch (const std::invalid_argument &e) {
    std::cerr << "seal_stamp: " << e.what()
              << "\nusage: seal_stamp --out DIR [--seed S] [--first N] [--count N] [--version V]\n";
    return 2;
  } catch (const std::exception &e) {
    std::cerr << "seal_stamp: " << e.what() << '\n';
    return 1;
  }
}
